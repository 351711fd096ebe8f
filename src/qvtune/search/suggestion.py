"""`Suggestion`: the rates that were found, what they cost, and how sure they are."""

from dataclasses import dataclass, field
from typing import Any

from qvtune.search.ranges import RangeTest
from qvtune.search.trials import Trial


@dataclass(frozen=True)
class Confidence:
    """How sure a choice is.

    Attributes:
        level: "high", "medium", "low", or "none" where nothing was compared.
        probability: that the chosen rates are better than the next best, by the validation examples; how much
            another draw of training batches would change is not in it; None where nothing was compared.
        limits: by the name of a rate, the lowest and the highest of the trials that the choice is not better than by
            a standard error.
    """

    level: str
    probability: float | None
    limits: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Suggestion:
    """Learning rates for a model, data and a method.

    Attributes:
        lr: η_QK; the value's rate where neither query, key nor output trains, the head's where no role does.
        lr_ratio: λ = η_V / η_QK; 1 where only one side trains.
        head_lr: the head's, None where there is none.
        cost: what was spent: "steps" of training, "forwards" of batches alone, "in_steps" both together, "part" of a
            full run, "seconds".
        confidence: how sure the choice is.
        balance: how many times as much the model's first step changes attention's output through the value as through
            query and key, at equal rates: |δ²| / |δ¹| of Theorem 2; None where one of them does not train.
        choice: the trial that the rates are from; of no steps where none was made.
        shrunk: the part of that trial's rates that the suggested ones are, since a whole run is longer.
        ranges: the range tests, the head's first; none where the budget was too small for them.
        trials: the short runs, in the order in which they were made; none where the budget was too small for two.
        notes: what else was seen, in sentences.
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
