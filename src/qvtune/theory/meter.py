"""How far an experiment is: a bar on a terminal, a line now and then without one."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qvtune.amounts import format_seconds

T = TypeVar("T")

# Seconds between two lines where there is no terminal.
LINE_SECONDS = 10.0


def track(tasks: Sequence[T], what: str, console: Console) -> Iterator[T]:
    """Yield `tasks`, which take about equally long, and show how many are done and the time that is left."""
    started = printed = time.monotonic()
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        place = bar.add_task("", total=len(tasks))
        for done, task in enumerate(tasks, 1):
            yield task
            bar.update(place, completed=done)
            now = time.monotonic()
            if not console.is_terminal and now - printed >= LINE_SECONDS:
                printed = now
                left = format_seconds((len(tasks) - done) * (now - started) / done)
                console.out(f"{what} {done}/{len(tasks)}, {left} left", highlight=False)
