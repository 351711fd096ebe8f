"""Means and paired tests against scipy, and against sums written out in float64."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from qvtune.lab.statistics import paired_test, spread


def test_mean_and_deviation_by_hand() -> None:
    values = [0.5, 0.75, 0.625]
    found = spread(values)
    mean = (0.5 + 0.75 + 0.625) / 3
    assert found.mean == pytest.approx(mean, abs=1e-15)
    assert found.sd == pytest.approx(math.sqrt(((0.5 - mean) ** 2 + (0.75 - mean) ** 2 + (0.625 - mean) ** 2) / 2))
    assert found.n == 3


def test_too_few_values_have_no_deviation() -> None:
    assert (spread([0.5]).mean, spread([0.5]).sd, spread([0.5]).n) == (0.5, None, 1)
    assert (spread([]).mean, spread([]).sd, spread([]).n) == (None, None, 0)


def test_t_test_by_hand() -> None:
    method, baseline = [0.80, 0.82, 0.79, 0.85], [0.78, 0.81, 0.80, 0.80]
    found = paired_test(method, baseline)
    differences = [0.02, 0.01, -0.01, 0.05]
    mean = sum(differences) / 4
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / 3) / 2
    # Student's t with 3 degrees of freedom has a closed distribution function; 3.18245 is its 97.5 % point.
    t = mean / error
    angle = math.atan(t / math.sqrt(3))
    p = 1 - 2 / math.pi * (angle + math.sin(angle) * math.cos(angle))
    assert found.pairs == 4
    assert found.difference == pytest.approx(mean)
    assert found.p_t == pytest.approx(p, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((mean - 3.182446305 * error, mean + 3.182446305 * error))
    assert found.p_wilcoxon is None


def test_signed_rank_by_counting_every_sign() -> None:
    differences = np.array([0.03, -0.01, 0.05, 0.02, 0.07, 0.04, 0.06])
    baseline = np.linspace(0.5, 0.6, 7)
    found = paired_test(baseline + differences, baseline)
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    smaller = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
    sums = [sum(r for r, positive in zip(ranks, signs, strict=True) if positive) for signs in product([0, 1], repeat=7)]
    assert found.p_wilcoxon == pytest.approx(2 * sum(s <= smaller for s in sums) / len(sums))


def test_agrees_with_scipy() -> None:
    generator = np.random.default_rng(5)
    method, baseline = generator.normal(0.8, 0.02, 12), generator.normal(0.79, 0.02, 12)
    found = paired_test(list(method), list(baseline))
    expected = stats.ttest_1samp(method - baseline, 0.0)
    interval = expected.confidence_interval(0.95)
    assert found.p_t == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(method - baseline).pvalue)
    other_way = paired_test(list(baseline), list(method))
    assert other_way.difference == pytest.approx(-found.difference)
    assert other_way.p_t == pytest.approx(found.p_t)


@pytest.mark.parametrize(
    ("method", "baseline", "difference", "note"),
    [
        ([], [], None, "no pair: no test"),
        ([0.8], [0.7], 0.1, "1 pair: no test"),
        ([0.8, 0.7, 0.6], [0.7, 0.6, 0.5], 0.1, "all equal: no test"),
        ([0.8, 0.7], [0.8, 0.7], 0.0, "all equal: no test"),
    ],
)
def test_says_why_there_is_no_test(
    method: list[float], baseline: list[float], difference: float | None, note: str
) -> None:
    found = paired_test(method, baseline)
    assert found.note == note
    assert found.difference == (None if difference is None else pytest.approx(difference))
    assert (found.p_t, found.p_wilcoxon, found.low, found.high) == (None, None, None, None)
    assert found.pairs == len(method)
