"""`Selection`: which of a run's checkpoints is the best, and whether to stop before the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qvtune.tasks.load import TUNING
from qvtune.tasks.metrics import standard_error

# Metrics of two checkpoints that are no further apart, in standard errors of one, count as equal. The same examples
# measure both, so that half of it is much already.
NOISE = 0.5


@dataclass(frozen=True)
class Selection:
    """How a run chooses.

    Attributes:
        metric: what is compared, as the log names it: "eval_accuracy", or "eval_tuning_accuracy". Higher is better.
        keeps_best: end with the best checkpoint; else with the last.
        choosing: examples that the metric is of: metrics within half a standard error of each other then count as
            equal, and the loss decides. 0 takes metrics as they are, and the loss decides between equal ones.
        patience: evaluations without a better metric after which a run stops; never when None.
    """

    metric: str
    keeps_best: bool
    choosing: int
    patience: int | None = None

    @property
    def name(self) -> str:
        """The metric without what the log puts in front."""
        return self.metric.removeprefix("eval_")

    def prefers(self, new: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
        """Return whether an evaluation is better than the best so far; both as the log has them."""
        if best is None:
            return True
        loss = f"eval_{TUNING}_loss" if self.metric.startswith(f"eval_{TUNING}_") else "eval_loss"
        noise = NOISE * standard_error(self.metric, best[self.metric], self.choosing) if self.choosing else 0.0
        apart = new[self.metric] - best[self.metric]
        return not (apart < -noise or (apart <= noise and new[loss] >= best[loss]))

    def is_over(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the log says to stop: a resumed run stops where the straight one does."""
        if self.patience is None:
            return False
        values = [record[self.metric] for record in records if self.metric in record]
        return bool(values) and len(values) - 1 - int(np.argmax(values)) >= self.patience

    def describe(self) -> str:
        """Say what the best checkpoint is chosen by."""
        return f"the lowest loss within half a standard error of the best {self.name}" if self.choosing else self.name
