"""Means over seeds, and paired tests of two methods on the same tasks and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95

# With fewer pairs the signed-rank test cannot reach p < 0.05 for any differences: 2 / 2⁵ is 0.0625.
WILCOXON_PAIRS = 6

# Differences between metrics that are closer than this differ only by rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n − 1 in the denominator) of `n` values; None if there are too few."""

    mean: float | None
    sd: float | None
    n: int


@dataclass(frozen=True)
class PairedTest:
    """A method against the baseline, pair by pair.

    Attributes:
        pairs: number of (task, seed) pairs for which both have a result.
        difference: mean of method minus baseline, None without a pair.
        low: lower end of the 95 % confidence interval of the mean difference, by Student's t; None without a test.
        high: its upper end.
        p_t: two-sided p-value of the paired t-test, None without a test.
        p_wilcoxon: two-sided p-value of Wilcoxon's signed-rank test, None with fewer than 6 pairs that differ.
        note: why there is no test, or an empty string.
    """

    pairs: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_t: float | None = None
    p_wilcoxon: float | None = None
    note: str = ""


def spread(values: Sequence[float]) -> Spread:
    """Return mean, standard deviation and number of `values`."""
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean()) if len(numbers) else None
    return Spread(mean, float(numbers.std(ddof=1)) if len(numbers) > 1 else None, len(numbers))


def paired_test(values: Sequence[float], baseline: Sequence[float]) -> PairedTest:
    """Compare two methods by pairs of results.

    The pairs count as independent, even within one task. Keep that in mind when you read a p-value over few tasks.

    Args:
        values: results of the method.
        baseline: results of the baseline, in the same order.

    Returns:
        The test; without a p-value if there are fewer than two pairs or all differences are equal.
    """
    from scipy.stats import ttest_rel, wilcoxon

    method, other = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    differences = method - other
    n = len(differences)
    if n == 0:
        return PairedTest(0, note="no pair: no test")
    mean = float(differences.mean())
    if n < 2:
        return PairedTest(n, mean, note="1 pair: no test")
    if np.ptp(differences) <= ROUNDING:
        return PairedTest(n, mean, note="all equal: no test")
    test = ttest_rel(method, other)
    interval = test.confidence_interval(CONFIDENCE)
    differing = np.count_nonzero(np.abs(differences) > ROUNDING)
    signed_rank = float(wilcoxon(method, other).pvalue) if differing >= WILCOXON_PAIRS else None
    return PairedTest(n, mean, float(interval.low), float(interval.high), float(test.pvalue), signed_rank)
