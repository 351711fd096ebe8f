"""Exponents of power laws: the slope of log(quantity) against log(width)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
# Exponents up to this size count as Θ(1). Over two decades, an exponent of 0.1 is a factor of 1.6.
TOLERANCE = 0.1
# The theory's exponents are multiples of this.
SPACING = 0.5


@dataclass(frozen=True)
class Exponent:
    """A fitted exponent with its 95 % confidence interval by Student's t, and the number of points."""

    slope: float
    low: float
    high: float
    points: int

    @property
    def sign(self) -> int | None:
        """1 if the quantity grows, -1 if it shrinks, 0 if it stays Θ(1); None if the interval does not decide."""
        if self.low > TOLERANCE or self.high < -TOLERANCE:
            return 1 if self.slope > 0 else -1
        return 0 if max(-self.low, self.high) < SPACING else None


def fit_exponent(widths: Sequence[int], values: NDArray[np.float64]) -> Exponent | None:
    """Fit value = c · widthᵏ by least squares on the logarithms, and return k.

    Args:
        widths: at least two that differ.
        values: positive, of shape (widths, seeds); every value is a point of the fit.

    Returns:
        The exponent; None if a value is zero or not finite, since then there is no power law.
    """
    from scipy.stats import linregress, t

    if not np.all(np.isfinite(values) & (values > 0)):
        return None
    x = np.repeat(np.log(np.asarray(widths, dtype=np.float64)), values.shape[1])
    line = linregress(x, np.log(values).ravel())
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(x) - 2) * line.stderr)
    return Exponent(float(line.slope), float(line.slope) - half, float(line.slope) + half, len(x))
