"""Progress of a run: steps, loss and speed, and the metrics of every evaluation."""

from typing import Any

from rich.console import Console
from transformers import TrainerCallback

from qvtune.progress import Meter


class ProgressReport(TrainerCallback):
    """Prints steps, loss, examples per second and time left, and the metrics of every evaluation."""

    def __init__(self, console: Console, examples_per_step: float) -> None:
        self.console = console
        self.examples_per_step = examples_per_step
        self.loss = ""
        self._training: Meter | None = None
        self._evaluation: Meter | None = None
        self._evaluated = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._training = Meter(
                "step",
                state.max_steps,
                self.console,
                unit="examples",
                size=self.examples_per_step,
                done=state.global_step,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._training is not None:
            self._training.show(state.global_step, self.loss)

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        if self._evaluation is None and state.is_world_process_zero:
            # The bar of the training is on the screen meanwhile.
            self._evaluation = Meter("evaluating, batch", len(eval_dataloader), self.console, has_bar=False)
            self._evaluated = 0
        if self._evaluation is not None:
            self._evaluated += 1
            self._evaluation.show(self._evaluated)

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        self._evaluation = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.loss = f"loss {logs['loss']:.4f}"

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and metrics:
            shown = ", ".join(f"{name.removeprefix('eval_')} {value:.4f}" for name, value in metrics.items())
            self.console.out(f"epoch {state.epoch or 0:.2f}, step {state.global_step}: {shown}", highlight=False)

    def close(self) -> None:
        """Take the bar off the screen, also after an error."""
        if self._training is not None:
            self._training.close()
            self._training = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()
