"""`RangeTest`: what a rising learning rate does to the loss when one side alone trains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A test runs from this part of a method's own default rate to this many times as much: from where nothing moves to
# where everything breaks.
LOWEST, HIGHEST = 1e-2, 1e3
# Points that are averaged, of the logarithmic scale.
WINDOW = 5
# A side learns if it lowers the loss by this part of what it was, and that drop lasts over the passes.
LEAST_DROP = 0.01
# The usable interval begins where this part of the deepest drop is reached. It ends where the loss has risen from its
# lowest so far by that part of the drop, and by this part of what it was: what a broken model does then, such as to
# learn the mean of the labels, is no learning.
BEGINS, ENDS, RISES = 0.1, 0.3, 0.02


@dataclass(frozen=True)
class RangeTest:
    """The change of the loss while the rate of one side rises (Smith 2017), against the same batches left alone.

    A pass is a sequence of batches; in each, the loss of the model that trains is compared with that of the model as it
    was, on the same batch with the same dropout, so that a batch that is hard by chance does not show.

    Attributes:
        rate: "lr", "value_lr" or "head_lr".
        groups: what trained, as in ("query", "key").
        rates: learning rates, rising by the same factor.
        changes: of every pass, the change of the loss at each rate, up to where it was stopped.
        start: the loss before, on average.
    """

    rate: str
    groups: tuple[str, ...]
    rates: tuple[float, ...]
    changes: tuple[tuple[float, ...], ...]
    start: float

    @property
    def curve(self) -> list[float]:
        """The change by rate, averaged over passes and over neighbours; infinite after the first pass that stopped."""
        table = np.full((len(self.changes), len(self.rates)), np.inf)
        for row, change in zip(table, self.changes, strict=True):
            row[: len(change)] = [value if math.isfinite(value) else np.inf for value in change]
        return _smoothed(table.mean(axis=0))

    @property
    def spread(self) -> list[list[float]]:
        """The change by rate of every pass, averaged over neighbours; as far as the pass went."""
        return [_smoothed(np.asarray(change)) for change in self.changes]

    @property
    def broken(self) -> int | None:
        """Place of the rate at which learning breaks, None where none does."""
        lowest = 0.0
        for place, value in enumerate(self.curve):
            lowest = min(lowest, value)
            if value - lowest > max(ENDS * -lowest, RISES * abs(self.start)):
                return place
        return None

    @property
    def deepest(self) -> int:
        """Place of the rate at which the loss is lowest before it breaks."""
        return int(np.argmin(self.curve[: self.broken] or [0.0]))

    @property
    def drop(self) -> float:
        """How far the loss fell at its lowest, before it breaks."""
        return max(0.0, -self.curve[self.deepest])

    @property
    def learns(self) -> bool:
        """Whether the loss fell by more than noise."""
        return self.drop > LEAST_DROP * abs(self.start)

    @property
    def low(self) -> float | None:
        """The rate at which a tenth of the deepest drop is reached; None where the side does not learn."""
        if not self.learns:
            return None
        return self.rates[next(i for i, value in enumerate(self.curve) if value <= -BEGINS * self.drop)]

    @property
    def edge(self) -> float | None:
        """The rate at which learning breaks, None where none does."""
        return None if self.broken is None else self.rates[self.broken]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold, with what was read from the curve."""
        curve = [value if math.isfinite(value) else None for value in self.curve]
        deepest = self.rates[self.deepest] if self.learns else None
        read = {"curve": curve, "low": self.low, "deepest": deepest, "edge": self.edge, "drop": self.drop}
        test = {"rate": self.rate, "groups": list(self.groups), "rates": list(self.rates), "start": self.start}
        return test | read


def _smoothed(values: NDArray) -> list[float]:
    half = WINDOW // 2
    return [
        float(values[max(0, i - half) : i + half + 1].mean()) if np.isfinite(values[i]) else math.inf
        for i in range(len(values))
    ]


def rising_rates(points: int, default: float) -> list[float]:
    """Return so many rates about a method's default one, rising by equal factors."""
    return [float(rate) for rate in np.geomspace(LOWEST * default, HIGHEST * default, points)]


def changes(losses: Sequence[float], still: Sequence[float]) -> tuple[float, ...]:
    """Return by how much the losses of a pass differ from those of the model left alone."""
    return tuple(loss - before for loss, before in zip(losses, still, strict=False))
