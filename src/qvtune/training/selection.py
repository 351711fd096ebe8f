"""`Selection`: which of a run's checkpoints is the best, and whether to stop before the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qvtune.tasks.examples import TUNING
from qvtune.tasks.metrics import standard_error

# Two checkpoints count as equal if their metrics differ by no more than this, in standard errors of one metric. Both
# are measured on the same examples, so half a standard error is much already.
NOISE = 0.5


@dataclass(frozen=True)
class Selection:
    """How a run chooses.

    Attributes:
        metric: the metric that is compared, as the log names it: "eval_accuracy", or "eval_tuning_accuracy". Higher is
            better.
        keeps_best: end with the best checkpoint; otherwise with the last.
        choosing: number of examples behind the metric. Metrics within half a standard error of each other count as
            equal, and the loss decides. With 0 only equal metrics do, and the loss decides between those.
        patience: a run stops after this many evaluations without a better metric; never when None.
    """

    metric: str
    keeps_best: bool
    choosing: int
    patience: int | None = None

    @property
    def name(self) -> str:
        """The metric's name without the log's prefix."""
        return self.metric.removeprefix("eval_")

    def prefers(self, new: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
        """Return whether an evaluation is better than the best so far; both are named as in the log."""
        if best is None:
            return True
        loss = f"eval_{TUNING}_loss" if self.metric.startswith(f"eval_{TUNING}_") else "eval_loss"
        noise = NOISE * standard_error(self.metric, best[self.metric], self.choosing) if self.choosing else 0.0
        apart = new[self.metric] - best[self.metric]
        return not (apart < -noise or (apart <= noise and new[loss] >= best[loss]))

    def is_over(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the log says to stop, so that a resumed run stops where an uninterrupted one does."""
        if self.patience is None:
            return False
        values = [record[self.metric] for record in records if self.metric in record]
        return bool(values) and len(values) - 1 - int(np.argmax(values)) >= self.patience

    def describe(self) -> str:
        """Say how the best checkpoint is chosen."""
        return f"the lowest loss within half a standard error of the best {self.name}" if self.choosing else self.name
