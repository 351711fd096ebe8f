"""Progress of a run: a bar on a terminal, a line now and then without one."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from qvtune.amounts import format_seconds

T = TypeVar("T")

# Seconds between two lines where there is no terminal.
LINE_SECONDS = 10.0


class ProgressReport(TrainerCallback):
    """Prints steps, loss, examples per second and time left, and the metrics of every evaluation."""

    def __init__(self, console: Console, examples_per_step: float) -> None:
        self.console = console
        self.examples_per_step = examples_per_step
        self.loss = ""
        self._bar: Progress | None = None
        self._task: Any = None
        self._first_step = 0
        self._started = self._printed = self._evaluation_started = 0.0
        self._evaluated = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._started = self._printed = time.monotonic()
        self._first_step = state.global_step
        if self.console.is_terminal:
            columns = (
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"),
                TextColumn("{task.fields[loss]}"), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step, speed="", loss="")
            self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        done = state.global_step - self._first_step
        rate = done / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=state.global_step,
                speed=f"{rate * self.examples_per_step:.0f} examples/s",
                loss=self.loss,
            )
        elif state.is_world_process_zero and now - self._printed >= LINE_SECONDS:
            self._printed = now
            left = (state.max_steps - state.global_step) / rate
            self.console.out(
                f"step {state.global_step}/{state.max_steps}, {self.loss}{', ' if self.loss else ''}"
                f"{rate * self.examples_per_step:.0f} examples/s, {format_seconds(left)} left",
                highlight=False,
            )

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        now = time.monotonic()
        if self._evaluated == 0:
            self._evaluation_started = now
        self._evaluated += 1
        if state.is_world_process_zero and now - self._printed >= LINE_SECONDS:
            self._printed = now
            rate = self._evaluated / max(now - self._evaluation_started, 1e-9)
            left = format_seconds((len(eval_dataloader) - self._evaluated) / rate)
            self.console.out(
                f"evaluating, batch {self._evaluated}/{len(eval_dataloader)}, {left} left", highlight=False
            )

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        self._evaluated = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.loss = f"loss {logs['loss']:.4f}"

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and metrics:
            shown = ", ".join(f"{name.removeprefix('eval_')} {value:.4f}" for name, value in metrics.items())
            self.console.out(f"epoch {state.epoch or 0:.2f}, step {state.global_step}: {shown}", highlight=False)

    def close(self) -> None:
        """Take the bar off the screen, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()


def track(batches: Iterable[T], examples: int, batch_size: int, what: str, console: Console) -> Iterator[T]:
    """Yield `batches` and show how far they are: a bar on a terminal, a line now and then without one.

    Args:
        batches: each of `batch_size` examples but for the last.
        examples: in all of them.
        batch_size: examples per batch.
        what: the word in front, as in "predicting".
        console: where to show it.
    """
    started = printed = time.monotonic()
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=examples, speed="")
        for number, batch in enumerate(batches, 1):
            yield batch
            now = time.monotonic()
            done = min(number * batch_size, examples)
            rate = done / max(now - started, 1e-9)
            bar.update(task, completed=done, speed=f"{rate:.0f} examples/s")
            if not console.is_terminal and now - printed >= LINE_SECONDS:
                printed = now
                left = format_seconds((examples - done) / rate)
                console.out(f"{what} {done}/{examples}, {rate:.0f} examples/s, {left} left", highlight=False)
