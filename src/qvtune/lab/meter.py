"""Progress of many runs: the outcome of each, what is running, runs per hour and time left."""

import json
import threading
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from qvtune.amounts import format_seconds
from qvtune.lab.cells import Cell
from qvtune.lab.outcome import FINISHED, Outcome
from qvtune.training.folder import RunFolder

# Seconds between two lines about what is running, if there is no terminal.
LINE_SECONDS = 30.0
TICK_SECONDS = 1.0

# Bytes to read at the end of a run's metrics file: more than one line.
_TAIL_BYTES = 4096


class RunsProgress:
    """Prints a line for each run that ends and, in between, how far the others are.

    A thread reads the metrics files of the runs, so it works with any executor that shares the folder.
    """

    def __init__(self, console: Console, cells: Sequence[Cell], done: int) -> None:
        self.console = console
        self.left = {cell.name: cell for cell in cells}
        self.done, self.total = done, done + len(cells)
        self.ended_here = 0
        # `time` and the file system's clock agree well enough to distinguish runs of this session from earlier ones.
        self.started = time.time()
        self._first: dict[str, float] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "RunsProgress":
        columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rest]}"))
        self._bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self._task = self._bar.add_task("", total=self.total, completed=self.done, rest="")
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._closed.set()
        self._thread.join()
        self._bar.stop()

    def ended(self, outcome: Outcome, note: str | None = None) -> None:
        """Print the outcome of a run."""
        self.left.pop(outcome.name, None)
        self.done += 1
        self.ended_here += 1
        seconds = outcome.result.get("seconds")
        if note is None and outcome.status == FINISHED:
            note = f"{outcome.result['main_metric']} {_number(outcome.metric)}"
        note = note or f"{outcome.status}, {outcome.reason}".rstrip(".")
        text = f"{self.done}/{self.total} {describe(outcome.labels)}: {note}"
        text += f", {format_seconds(seconds)}" if seconds is not None else ""
        self._bar.update(self._task, completed=self.done)
        self.console.out(f"{text}{self._time_left()}", highlight=False)

    def _watch(self) -> None:
        printed = time.monotonic()
        while not self._closed.wait(TICK_SECONDS):
            if self.console.is_terminal:
                self._bar.update(self._task, rest=self._in_work())
            elif time.monotonic() - printed >= LINE_SECONDS:
                printed = time.monotonic()
                self.console.out(f"{self.done}/{self.total} runs done; {self._in_work()}", highlight=False)

    def _in_work(self) -> str:
        running = [
            f"{describe(cell.labels)} {part:.0%}" for cell in list(self.left.values()) if (part := self._part(cell))
        ]
        shown = ", ".join(running[:3]) + (f" and {len(running) - 3} more" if len(running) > 3 else "")
        return f"{shown or 'starting'}{self._time_left()}"

    def _time_left(self) -> str:
        # The part of a run that an earlier session did does not count here.
        gained = sum(max(0.0, self._part(cell) - self._first.get(name, 0.0)) for name, cell in list(self.left.items()))
        work = self.ended_here + gained
        if not self.left or work < 0.05:
            return ""
        elapsed = time.time() - self.started
        remaining = sum(1 - self._part(cell) for cell in list(self.left.values()))
        return f"; {work / elapsed * 3600:.0f} runs/h, {format_seconds(remaining * elapsed / work)} left"

    def _part(self, cell: Cell) -> float:
        """Return how much of a running run is done, as a fraction, from the last line of its metrics file."""
        metrics = cell.config.out / "metrics.jsonl"
        try:
            if metrics.stat().st_mtime < self.started:
                return 0.0
            with open(metrics, "rb") as file:
                file.seek(max(0, metrics.stat().st_size - _TAIL_BYTES))
                record = json.loads(file.read().splitlines()[-1])
        except (OSError, ValueError, IndexError):
            return 0.0
        config = cell.config
        if config.max_steps:
            part = record["step"] / config.max_steps
        else:
            folder = RunFolder(config.out)
            part = record.get("epoch", 0) / (config.epochs or folder.read_plan()["epochs"])
        self._first.setdefault(cell.name, part)
        return min(1.0, part)


def describe(labels: dict[str, Any]) -> str:
    """Return "lr=0.0001 lr_ratio=4", without labels for which a run has no value."""
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in labels.items()
        if value is not None
    )


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"
