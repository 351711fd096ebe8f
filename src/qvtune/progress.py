"""How far something is: a bar on a terminal, a line now and then without one."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qvtune.amounts import format_seconds

T = TypeVar("T")
M = TypeVar("M", bound="Meter")

# Seconds between two lines where there is no bar.
LINE_SECONDS = 10.0


class Meter:
    """Shows how many of a total are done, how fast, and the time left.

    The speed is that since the first time it was shown anything done, as the first of many takes longest.

    Args:
        what: the words in front, as in "scoring".
        total: of what is counted.
        console: where to show it.
        unit: of the speed, as in "examples"; none is shown where it is empty.
        size: how many of that unit one of the total is.
        done: how many were done before; they count for no speed.
        has_bar: whether a terminal gets a bar; lines otherwise.
    """

    def __init__(
        self,
        what: str,
        total: float,
        console: Console,
        *,
        unit: str = "",
        size: float = 1,
        done: float = 0,
        has_bar: bool = True,
    ) -> None:
        self.what, self.total, self.console, self.unit, self.size = what, total, console, unit, size
        self._first = done
        self._started = self._printed = time.monotonic()
        self._warm: tuple[float, float] | None = None  # when something was done first, and how much
        self._bar: Progress | None = None
        if has_bar and console.is_terminal:
            columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[notes]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task("", total=total, notes="")
            self._bar.update(self._task, completed=done)
            self._bar.start()

    def __enter__(self: M) -> M:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def show(self, done: float, note: str = "") -> None:
        """Show that so many of the total are done, and a note where there is one."""
        now = time.monotonic()
        since, first = self._warm if self._warm and done > self._warm[1] else (self._started, self._first)
        if self._warm is None and done > self._first:
            self._warm = (now, done)
        rate = max(done - first, 1e-9) / max(now - since, 1e-9)
        notes = [note] if note else []
        if self.unit:
            speed = rate * self.size
            notes.append(f"{speed:.{0 if speed >= 9.95 else 1}f} {self.unit}/s")
        if self._bar is not None:
            self._bar.update(self._task, completed=done, notes=", ".join(notes))
        elif now - self._printed >= LINE_SECONDS:
            self._printed = now
            left = format_seconds(max(0.0, self.total - done) / rate)
            self.console.out(
                ", ".join([f"{self.what} {done:.0f}/{self.total:.0f}", *notes, f"{left} left"]), highlight=False
            )

    def close(self) -> None:
        """Take the bar off the screen, also after an error."""
        if self._bar is not None:
            self._bar.stop()


def track(parts: Iterable[T], total: int, what: str, console: Console, *, size: int = 1, unit: str = "") -> Iterator[T]:
    """Yield `parts`, which take about equally long, and show how many are done and the time that is left.

    Args:
        parts: each of `size` of what is counted, but for the last.
        total: in all of them.
        what: the words in front, as in "predicting".
        console: where to show it.
        size: of a part.
        unit: what is counted, to show how many of it are done in a second; no speed is shown where it is empty.
    """
    with Meter(what, total, console, unit=unit) as meter:
        for number, part in enumerate(parts, 1):
            yield part
            meter.show(min(number * size, total))
