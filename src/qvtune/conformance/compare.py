"""When two trainings count as equal: held against float64, and against what rounding alone does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps
# A way may be off from float64 by so many times what one process in float32 is off. Processes sum in another order, and
# single numbers scatter; what the checks look for (a lost average, a missed clip, another rate) is off by thousands.
TIMES = 64
# Measured rates and weight decay: an update of a hundredth of a number is known to EPS * 100, which is far less.
RATE_TOLERANCE, DECAY_TOLERANCE = 1e-3, 1e-2

T = TypeVar("T")


class Failed(Exception):
    """A check found a difference; the text has the numbers."""


@dataclass(frozen=True)
class Both:
    """A quantity of the training in one process, in float64 and in float32."""

    exact: Tensor
    single: Tensor

    @classmethod
    def of(cls, compute: Callable[[torch.dtype], T], read: Callable[[T], object]) -> "Both":
        """Compute in both precisions and read the quantity of each."""
        return cls(flat(read(compute(torch.float64))), flat(read(compute(torch.float32))))

    def check(self, found: object) -> str:
        """Check that a way's quantity is within rounding, and say how far it is.

        Raises:
            Failed: if it is not.
        """
        got = flat(found)
        size = float(self.exact.abs().max())
        rounding = max(float((self.single - self.exact).abs().max()), EPS * size)
        off = float((got - self.exact).abs().max())
        words = f"off by {off:.1e} of {size:.1e}; one process rounds by {rounding:.1e}, limit {TIMES} times that"
        if not off <= TIMES * rounding:  # also where it is no number
            raise Failed(words)
        return words


def flat(values: object) -> Tensor:
    """Return numbers, or tensors by name, as one vector in float64."""
    if isinstance(values, Mapping):
        return torch.cat([values[name].double().flatten() for name in sorted(values)])
    if isinstance(values, Sequence):
        return torch.tensor([float(value) for value in values], dtype=torch.float64)
    raise AssertionError(values)


def check_each(found: Mapping[str, float], wanted: Mapping[str, float], tolerance: float, scale: float = 0.0) -> str:
    """Check numbers by name, within a part of each or of `scale`.

    Raises:
        Failed: if one differs; the text has the first three.
    """
    wrong = [
        f"{name} has {found.get(name, float('nan')):.4g}, not {value:.4g}"
        for name, value in wanted.items()
        if not abs(found.get(name, float("nan")) - value) <= tolerance * max(abs(value), scale)
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise Failed("; ".join(wrong[:3]) + more)
    return f"{len(wanted)} as wanted"
