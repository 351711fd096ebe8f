"""How long a set of runs would take, from a few timed steps of each kind."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from qvtune.errors import QVTuneError
from qvtune.lab.cells import Cell
from qvtune.lab.execution import Execution
from qvtune.lab.meter import describe
from qvtune.training.callbacks import Callback, Progress
from qvtune.training.config import TrainConfig
from qvtune.training.timetable import epochs_between_evaluations

WARM_STEPS = 2
TIMED_STEPS = 8

# Options that change how a run learns, but not how long it takes.
_FREE = {
    "lr", "lr_ratio", "head_lr", "query_lr", "key_lr", "value_lr", "output_lr", "rate", "seed", "alpha", "dropout",
    "schedule", "warmup", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "b_lr_ratio",
    "out",
}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """How long runs would take: their number, the seconds for all of them and the mean for one."""

    runs: int
    kinds: int
    seconds: float
    run_seconds: float


def estimate(cells: Sequence[Cell], execution: Execution, console: Console | None = None) -> Estimate:
    """Time a few steps and an evaluation of one run of each kind, in a temporary folder, and add up.

    Runs that differ only in rates, seed or schedule are of one kind. Nothing is written in the store.

    Args:
        cells: the runs to train.
        execution: how many run at the same time; their threads are assumed to add up to this process's.
        console: where progress goes; standard error when None.

    Raises:
        QVTuneError: for data or a model that cannot be read, or a run that cannot start.
    """
    console = console or Console(stderr=True)
    kinds: dict[str, list[Cell]] = {}
    for cell in cells:
        kinds.setdefault(cell.config.model_dump_json(exclude=_FREE & set(TrainConfig.model_fields)), []).append(cell)
    total = 0.0
    for number, members in enumerate(kinds.values(), 1):
        console.out(f"timing kind {number} of {len(kinds)}, {describe(members[0].labels)}", highlight=False)
        total += _run_seconds(members[0].config) * len(members)
    return Estimate(len(cells), len(kinds), total, total / len(cells) if cells else 0.0)


def _run_seconds(config: TrainConfig) -> float:
    from qvtune.training.prepare import read_inputs
    from qvtune.training.run import run

    read_inputs(config)  # so that reading and imports are not counted: later runs find them done
    with tempfile.TemporaryDirectory(prefix="qvtune-timing-") as folder:
        stopwatch = Stopwatch()
        started = time.perf_counter()
        # The timed evaluation comes after the timed steps.
        timed = {"out": Path(folder) / "run", "eval_steps": WARM_STEPS + TIMED_STEPS}
        try:
            run(config.model_copy(update=timed), Console(quiet=True), callbacks=[stopwatch])
        except Enough:
            return stopwatch.run_seconds(started, config)
        return time.perf_counter() - started  # the run was shorter than the steps to time


class Enough(QVTuneError):
    """Everything was timed."""


class Stopwatch(Callback):
    """Times steps after the first, then one evaluation, and ends the run."""

    def __init__(self) -> None:
        self.begun = self.warm = self.stepped = self.evaluated = self.epochs = 0.0
        self.steps = 0

    def on_train_begin(self, progress: Progress) -> None:
        """Record when the preparations were done."""
        self.begun = time.perf_counter()
        self.steps, self.epochs = progress.steps, progress.epochs

    def on_step_end(self, progress: Progress) -> None:
        """Record when the timed steps began and ended."""
        if progress.step == WARM_STEPS:
            self.warm = time.perf_counter()
        elif progress.step == WARM_STEPS + TIMED_STEPS:
            self.stepped = time.perf_counter()

    def on_evaluate(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """End the run.

        Raises:
            Enough: after the timed evaluation.
        """
        if self.stepped:
            self.evaluated = time.perf_counter()
            raise Enough

    def run_seconds(self, started: float, config: TrainConfig) -> float:
        """Return how long the whole run takes, from its start."""
        step = (self.stepped - self.warm) / TIMED_STEPS
        every = epochs_between_evaluations(self.epochs)
        evaluations = self.steps / config.eval_steps if config.eval_steps else self.epochs / every
        # A run in bfloat16 measures its metrics once more at its end.
        return self.begun - started + self.steps * step + (evaluations + 1) * (self.evaluated - self.stepped)
