"""How long a run trains, and after which steps it logs, evaluates and saves."""

import math
from dataclasses import dataclass

from qvtune.training.config import TrainConfig

# Evaluations of a run that is not told how often.
EVALUATIONS = 10
# Epochs of a run that is not told how many.
FEWEST_PASSES, MOST_PASSES = 3, 30


@dataclass(frozen=True)
class Due:
    """What follows a step."""

    log: bool
    evaluate: bool
    save: bool


@dataclass(frozen=True)
class Timetable:
    """How long a run trains and what follows which step.

    Attributes:
        steps: of the whole run.
        epochs: the same in passes through the training examples.
        steps_per_epoch: the last of an epoch may have fewer forward passes.
        logging_steps: a step is logged every so many, and where the run saves.
        eval_steps: the run evaluates and saves every so many and at its end; after epochs when None.
        eval_epochs: every so many.
    """

    steps: int
    epochs: float
    steps_per_epoch: int
    logging_steps: int
    eval_steps: int | None
    eval_epochs: int

    @classmethod
    def of(cls, config: TrainConfig, examples: int, steps_per_epoch: int) -> "Timetable":
        """Return the timetable of a run with so many training examples."""
        epochs = count_passes(config, examples)
        steps = config.max_steps or math.ceil(epochs * steps_per_epoch)
        every = 1 if config.max_steps else epochs_between_evaluations(epochs)
        return cls(steps, steps / steps_per_epoch, steps_per_epoch, config.logging_steps, config.eval_steps, every)

    def due(self, step: int, *, is_stopping: bool = False) -> Due:
        """Return what follows a step; one that the run is asked to stop after is saved.

        A checkpoint comes with an evaluation, so that the best has one, and after a record, so that no loss is lost.
        """
        epoch, part = divmod(step, self.steps_per_epoch)
        if self.eval_steps is not None:
            is_evaluated = step % self.eval_steps == 0
        else:
            is_evaluated = part == 0 and epoch % self.eval_epochs == 0
        is_evaluated |= step == self.steps
        is_saved = is_evaluated or is_stopping
        return Due(is_saved or step % self.logging_steps == 0, is_evaluated, is_saved)


def count_steps(config: TrainConfig, examples: int) -> int:
    """Return the steps of a run in one process, before its batches are known."""
    batches = math.ceil(examples / config.batch_size)
    return config.max_steps or math.ceil(count_passes(config, examples) * math.ceil(batches / config.accumulation))


def epochs_between_evaluations(passes: float) -> int:
    """Return after how many epochs each a run evaluates that is not told how often."""
    return max(1, math.ceil(passes / EVALUATIONS))


def count_passes(config: TrainConfig, examples: int) -> float:
    """Return the epochs of a run: as many as were asked for, or what this many training examples need.

    Few examples need more passes, many need fewer, with the square root of their number: ten for 1,000.
    """
    if config.epochs is not None:
        return config.epochs
    return float(min(MOST_PASSES, max(FEWEST_PASSES, round(10 * math.sqrt(1_000 / examples)))))
