"""How long a run trains, and after which steps it logs, evaluates and saves."""

import math
from dataclasses import dataclass

from qvtune.training.config import TrainConfig

# Default number of evaluations of a run.
EVALUATIONS = 10
# Default number of epochs of a run.
FEWEST_PASSES, MOST_PASSES = 3, 30


@dataclass(frozen=True)
class Due:
    """What is done after a step."""

    log: bool
    evaluate: bool
    save: bool


@dataclass(frozen=True)
class Timetable:
    """How long a run trains and what is done after which step.

    Attributes:
        steps: steps of the whole run.
        epochs: the same length in passes through the training examples.
        steps_per_epoch: steps of an epoch; the last may have fewer forward passes.
        logging_steps: every so many steps one is logged, and every step after which the run saves.
        eval_steps: the run evaluates and saves every so many steps and at its end; after epochs when None.
        eval_epochs: the run evaluates and saves after every so many epochs, if `eval_steps` is None.
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
        """Return what is done after a step; if the run is asked to stop after it, it is saved.

        A checkpoint comes with an evaluation, so that the best one has one, and after a record, so that no loss is
        missing.
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
    return Timetable.of(config, examples, math.ceil(batches / config.accumulation)).steps


def epochs_between_evaluations(passes: float) -> int:
    """Return the default number of epochs between evaluations."""
    return max(1, math.ceil(passes / EVALUATIONS))


def count_passes(config: TrainConfig, examples: int) -> float:
    """Return the epochs of a run: the number asked for, or what this many training examples need.

    The number falls with the square root of the number of examples: ten for 1,000.
    """
    if config.epochs is not None:
        return config.epochs
    return float(min(MOST_PASSES, max(FEWEST_PASSES, round(10 * math.sqrt(1_000 / examples)))))
