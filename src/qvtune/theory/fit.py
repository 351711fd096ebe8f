"""Exponents of power laws: the slope of log(quantity) against log(width)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
# What counts as Θ(1). Of a power law over two decades, 0.1 is a factor of 1.6.
TOLERANCE = 0.1
# The theory's exponents are multiples of it.
SPACING = 0.5


@dataclass(frozen=True)
class Exponent:
    """A fitted exponent, with its 95 % confidence interval by Student's t, of so many points."""

    slope: float
    low: float
    high: float
    points: int

    @property
    def sign(self) -> int | None:
        """1 for what grows, -1 for what shrinks, 0 for what stays Θ(1); None where the interval does not tell."""
        if self.low > TOLERANCE or self.high < -TOLERANCE:
            return 1 if self.slope > 0 else -1
        return 0 if max(-self.low, self.high) < SPACING else None


def fit_exponent(widths: Sequence[int], values: NDArray[np.float64]) -> Exponent | None:
    """Fit value = c · widthᵏ by least squares on the logarithms, and return k.

    Args:
        widths: at least two that differ.
        values: positive, of shape (widths, seeds); every one is a point of the fit.

    Returns:
        The exponent; None where a value is zero or not finite, so that there is no power law.
    """
    from scipy.stats import linregress, t

    if not np.all(np.isfinite(values) & (values > 0)):
        return None
    x = np.repeat(np.log(np.asarray(widths, dtype=np.float64)), values.shape[1])
    line = linregress(x, np.log(values).ravel())
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(x) - 2) * line.stderr)
    return Exponent(float(line.slope), float(line.slope) - half, float(line.slope) + half, len(x))
