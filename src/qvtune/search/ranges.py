"""`RangeTest`: how the loss changes while one side trains alone at a rising learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A test runs from this fraction of a method's default rate to this multiple of it: from where nothing moves to where
# everything breaks.
LOWEST, HIGHEST = 1e-2, 1e3
# Number of neighbouring points that are averaged, on the logarithmic scale.
WINDOW = 5
# A side learns if it lowers the loss by this fraction of its first value, on average over the passes.
LEAST_DROP = 0.01
# The usable interval begins where the loss has fallen by BEGINS of its deepest drop. It ends where the loss has risen
# from its lowest so far by ENDS of the drop, and by RISES of its first value. A later fall does not count: a broken
# model may still learn the mean of the labels.
BEGINS, ENDS, RISES = 0.1, 0.3, 0.02


@dataclass(frozen=True)
class RangeTest:
    """The change of the loss while the rate of one side rises (Smith 2017), compared with the model at its start.

    A pass is a sequence of batches. For each batch, the loss of the training model is compared with that of the model
    at its start, with the same dropout. So a batch that happens to be hard does not show in the curve.

    Attributes:
        rate: "lr", "value_lr" or "head_lr".
        groups: the groups that trained, such as ("query", "key").
        rates: learning rates, rising by equal factors.
        changes: for every pass, the change of the loss at each rate, up to where the pass stopped.
        start: the mean loss before the test.
    """

    rate: str
    groups: tuple[str, ...]
    rates: tuple[float, ...]
    changes: tuple[tuple[float, ...], ...]
    start: float

    @property
    def curve(self) -> list[float]:
        """The change by rate, averaged over passes and neighbours; infinite from where the first pass stopped."""
        table = np.full((len(self.changes), len(self.rates)), np.inf)
        for row, change in zip(table, self.changes, strict=True):
            row[: len(change)] = [value if math.isfinite(value) else np.inf for value in change]
        return _smoothed(table.mean(axis=0))

    @property
    def spread(self) -> list[list[float]]:
        """The change by rate in every pass, averaged over neighbours, as far as the pass went."""
        return [_smoothed(np.asarray(change)) for change in self.changes]

    @property
    def broken(self) -> int | None:
        """Index of the rate at which learning breaks; None if there is none."""
        lowest = 0.0
        for place, value in enumerate(self.curve):
            lowest = min(lowest, value)
            if value - lowest > max(ENDS * -lowest, RISES * abs(self.start)):
                return place
        return None

    @property
    def deepest(self) -> int:
        """Index of the rate with the lowest loss before learning breaks."""
        return int(np.argmin(self.curve[: self.broken] or [0.0]))

    @property
    def drop(self) -> float:
        """How far the loss fell at its lowest point, before learning breaks."""
        return max(0.0, -self.curve[self.deepest])

    @property
    def learns(self) -> bool:
        """Whether the loss fell by more than noise."""
        return self.drop > LEAST_DROP * abs(self.start)

    @property
    def low(self) -> float | None:
        """The rate at which a tenth of the deepest drop is reached; None if the side does not learn."""
        if not self.learns:
            return None
        return self.rates[next(i for i, value in enumerate(self.curve) if value <= -BEGINS * self.drop)]

    @property
    def edge(self) -> float | None:
        """The rate at which learning breaks; None if there is none."""
        return None if self.broken is None else self.rates[self.broken]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold, with the values read from the curve."""
        curve = [value if math.isfinite(value) else None for value in self.curve]
        deepest = self.rates[self.deepest] if self.learns else None
        read = {"curve": curve, "low": self.low, "deepest": deepest, "edge": self.edge, "drop": self.drop}
        test = {"rate": self.rate, "groups": list(self.groups), "rates": list(self.rates), "start": self.start}
        return test | read


def _smoothed(values: NDArray[Any]) -> list[float]:
    half = WINDOW // 2
    return [
        float(values[max(0, i - half) : i + half + 1].mean()) if np.isfinite(values[i]) else math.inf
        for i in range(len(values))
    ]


def rising_rates(points: int, default: float) -> list[float]:
    """Return `points` rates around a method's default rate, rising by equal factors."""
    return [float(rate) for rate in np.geomspace(LOWEST * default, HIGHEST * default, points)]


def changes(losses: Sequence[float], still: Sequence[float]) -> tuple[float, ...]:
    """Return the differences between the losses of a pass and those of the model at its start."""
    return tuple(loss - before for loss, before in zip(losses, still, strict=False))
