"""`Suggestion`: the rates that were found, what they cost, and how sure they are."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from qvtune.notebook import ShownInNotebooks
from qvtune.search.ranges import RangeTest
from qvtune.search.trials import Trial


@dataclass(frozen=True)
class Confidence:
    """How sure a choice is.

    Attributes:
        level: "high", "medium", "low", or "none" if nothing was compared.
        probability: probability that the chosen rates are better than the next best, from the validation examples. It
            does not include the effect of other training batches. None if nothing was compared.
        limits: by the name of a rate, the lowest and the highest value among the trials that the choice does not beat
            by a standard error.
    """

    level: str
    probability: float | None
    limits: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Suggestion(ShownInNotebooks):
    """Learning rates for a model, data and a method. A notebook shows the page of the search.

    Attributes:
        lr: η_QK; the rate of the value if no other role trains, the head's if no role does.
        lr_ratio: λ = η_V / η_QK; 1 if only one side trains.
        head_lr: the head's rate; None if there is no head.
        cost: what the search cost: "steps" of training, "forwards" (forward passes alone), "in_steps" (both together),
            "part" (the fraction of a full run) and "seconds".
        confidence: how sure the choice is.
        balance: how many times as much the model's first step changes attention's output through the value as through
            query and key, at equal rates: |δ²| / |δ¹| of Theorem 2; None if one of them does not train.
        choice: the trial whose rates were chosen; a trial of no steps if there was none.
        shrunk: the suggested rates as a fraction of that trial's, since a whole run is longer.
        ranges: the range tests, the head's first; none if the budget was too small for them.
        trials: the short runs, in order; none if the budget was too small for two.
        notes: other findings, in sentences.
    """

    lr: float
    lr_ratio: float
    head_lr: float | None
    cost: dict[str, float]
    confidence: Confidence
    balance: float | None
    choice: Trial = field(repr=False)
    shrunk: float
    ranges: tuple[RangeTest, ...] = field(repr=False)
    trials: tuple[Trial, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        """A row for every trial, in order: its rates, `steps`, `loss`, `again` and `diverged`."""
        found = [trial.to_dict() for trial in self.trials]
        return pd.DataFrame([trial.pop("rates") | trial for trial in found])

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold."""
        level, limits = self.confidence, self.confidence.limits
        return {
            "lr": self.lr,
            "lr_ratio": self.lr_ratio,
            "head_lr": self.head_lr,
            "cost": self.cost,
            "confidence": {"level": level.level, "probability": level.probability, "limits": limits},
            "balance": self.balance,
            "choice": self.choice.rates,
            "shrunk": self.shrunk,
            "ranges": [test.to_dict() for test in self.ranges],
            "trials": [trial.to_dict() for trial in self.trials],
            "notes": list(self.notes),
        }
