"""Progress of a run: a bar on a terminal, a line now and then without one."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

# Seconds between two lines where there is no terminal.
LINE_SECONDS = 10.0


class ProgressReport(TrainerCallback):
    """Prints steps, loss, examples per second and time left, and the metrics of every evaluation."""

    def __init__(self, console: Console, examples_per_step: int, metric: str) -> None:
        self.console = console
        self.examples_per_step = examples_per_step
        self.metric = metric
        self.loss = ""
        self._bar: Progress | None = None
        self._task: Any = None
        self._first_step = 0
        self._started = self._printed = 0.0

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


def format_seconds(seconds: float) -> str:
    """Return "42 s", "3 min 5 s" or "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
