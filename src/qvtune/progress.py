"""Progress: a bar on a terminal, or else a line from time to time."""

import importlib.util
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qvtune.amounts import format_seconds

T = TypeVar("T")
M = TypeVar("M", bound="Meter")

# Seconds between two lines without a bar.
LINE_SECONDS = 10.0


class Meter:
    """Shows how many of a total are done, the speed, and the time left.

    The speed is measured from the first progress shown, since the first part takes longest.

    Args:
        what: the words in front, such as "scoring".
        total: the total count.
        console: where to show it.
        unit: unit of the speed, such as "examples"; if empty, no speed is shown.
        size: how many of that unit each counted part is.
        done: how many were done before; they do not count for the speed.
        has_bar: whether a terminal gets a bar instead of lines.
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
        self._warm: tuple[float, float] | None = None  # time and count of the first progress
        self._bar: Progress | None = None
        if has_bar and (console.is_terminal or _has_widgets(console)):
            columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[notes]}"))
            # In a notebook every bar has a place of its own, which is left empty afterwards.
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=console.is_jupyter)
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
        """Show how many of the total are done, and a note if there is one."""
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
        """Remove the progress bar, also after an error."""
        if self._bar is not None:
            self._bar.stop()


def _has_widgets(console: Console) -> bool:
    """Whether a notebook can show a bar that moves."""
    return console.is_jupyter and not console.quiet and importlib.util.find_spec("ipywidgets") is not None


def track(parts: Iterable[T], total: int, what: str, console: Console, *, size: int = 1, unit: str = "") -> Iterator[T]:
    """Yield `parts`, which take about equally long, and show how many are done and the time left.

    Args:
        parts: each counts as `size` units; the last may have fewer.
        total: number of units in all parts.
        what: the words in front, such as "predicting".
        console: where to show it.
        size: number of units in a part.
        unit: name of the unit, to show the speed per second; if empty, no speed is shown.
    """
    with Meter(what, total, console, unit=unit) as meter:
        for number, part in enumerate(parts, 1):
            yield part
            meter.show(min(number * size, total))
