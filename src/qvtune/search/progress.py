"""Progress of a search: a bar on a terminal, a line now and then without one."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from qvtune.amounts import format_seconds
from qvtune.train.progress import LINE_SECONDS


class SearchProgress:
    """Shows how much of a budget is spent, how fast, and the time left."""

    def __init__(self, console: Console, steps: float) -> None:
        self.console, self.steps = console, steps
        self.spent = 0.0
        self._started = self._printed = time.monotonic()
        columns = (TextColumn("searching"), BarColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=steps, speed="")

    def __enter__(self) -> "SearchProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def spend(self, steps: float) -> None:
        """Count what a step or a forward pass cost."""
        self.spent += steps
        now = time.monotonic()
        rate = self.spent / max(now - self._started, 1e-9)
        self._bar.update(self._task, completed=self.spent, speed=f"{rate:.1f} steps/s")
        if not self.console.is_terminal and now - self._printed >= LINE_SECONDS:
            self._printed = now
            left = format_seconds(max(0.0, self.steps - self.spent) / rate)
            text = f"searching, {self.spent:.0f}/{self.steps:.0f} steps, {rate:.1f} steps/s, {left} left"
            self.console.out(text, highlight=False)
