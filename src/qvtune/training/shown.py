"""Progress of a run: steps, loss and speed, and the metrics of every evaluation."""

from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console

from qvtune.progress import Meter
from qvtune.training.callbacks import Progress
from qvtune.training.objective import Batch


class ProgressReport:
    """Prints steps, loss, examples per second and time left, and the metrics of every evaluation.

    Args:
        console: where to print; a quiet one in all processes but the first.
        examples_per_step: in all processes together.
    """

    def __init__(self, console: Console, examples_per_step: float) -> None:
        self.console, self.examples_per_step = console, examples_per_step
        self._loss = ""
        self._meter: Meter | None = None

    def begin(self, progress: Progress) -> None:
        """Show the bar."""
        self._meter = Meter(
            "step",
            progress.steps,
            self.console,
            unit="examples",
            size=self.examples_per_step,
            done=progress.step,
        )

    def step(self, progress: Progress) -> None:
        """Show one more step."""
        if self._meter is not None:
            self._meter.show(progress.step, self._loss)

    def logged(self, loss: float) -> None:
        """Show the loss from now on."""
        self._loss = f"loss {loss:.4f}"

    def evaluating(self, batches: Iterable[Batch], total: int) -> Iterator[Batch]:
        """Yield batches of an evaluation, and print lines if it takes long; the bar of the training stays."""
        meter = Meter("evaluating, batch", total, self.console, has_bar=False)
        for number, batch in enumerate(batches, 1):
            yield batch
            meter.show(number)

    def evaluated(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Print the metrics of an evaluation."""
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.console.out(f"epoch {progress.epoch:.2f}, step {progress.step}: {shown}", highlight=False)

    def close(self) -> None:
        """Remove the progress bar, also after an error."""
        if self._meter is not None:
            self._meter.close()
            self._meter = None
