"""What is read from the curve of a range test."""

import math
from itertools import pairwise

import pytest

from qvtune.search.ranges import LEAST_DROP, WINDOW, RangeTest, changes, rising_rates

RATES = tuple(rising_rates(40, 4e-4))


def bowl(drop: float, deepest: int, passes: int = 2) -> RangeTest:
    """Flat, then down to `deepest`, then up twice as steeply."""
    slope = drop / 10
    values = tuple(
        -drop + slope * (deepest - i)
        if deepest - 10 <= i <= deepest
        else -drop + 2 * slope * (i - deepest)
        if i > deepest
        else 0.0
        for i in range(len(RATES))
    )
    return RangeTest("value_lr", ("value",), RATES, (values,) * passes, 0.7)


def test_rates_rise_by_equal_factors_about_the_default() -> None:
    assert RATES[0] == pytest.approx(4e-6)
    assert RATES[-1] == pytest.approx(0.4)
    factors = [after / before for before, after in pairwise(RATES)]
    assert factors == pytest.approx([factors[0]] * len(factors))


def test_a_bowl() -> None:
    test = bowl(0.1, 25)
    assert test.learns
    assert abs(test.deepest - 25) <= 1
    assert test.drop == pytest.approx(0.1, abs=0.02)
    assert test.low is not None
    assert RATES[14] <= test.low <= RATES[19]
    assert test.edge is not None
    assert RATES[26] <= test.edge <= RATES[25 + WINDOW + 1]


def test_what_a_broken_model_reaches_later_is_no_learning() -> None:
    first = bowl(0.1, 20)
    values = list(first.changes[0])
    values[30:] = [-0.6] * 10
    test = RangeTest("value_lr", ("value",), RATES, (tuple(values),), 0.7)
    assert abs(test.deepest - 20) <= 1
    assert test.drop < 0.2


def test_a_side_that_does_nothing() -> None:
    test = RangeTest("lr", ("query",), RATES, ((0.0,) * 40,), 0.7)
    assert not test.learns
    assert test.low is None
    assert test.edge is None
    assert test.drop == 0.0


def test_a_drop_within_noise_is_none() -> None:
    values = tuple(-0.5 * LEAST_DROP * 0.7 for _ in RATES)
    assert not RangeTest("lr", ("query",), RATES, (values,), 0.7).learns


def test_a_pass_that_stopped_ends_the_curve() -> None:
    full = bowl(0.1, 25).changes[0]
    test = RangeTest("value_lr", ("value",), RATES, (full, (*full[:27], math.nan)), 0.7)
    assert math.isfinite(test.curve[24])
    assert math.isinf(test.curve[27])
    assert test.edge is not None
    assert test.edge <= RATES[27]
    assert None in test.to_dict()["curve"]


def test_every_rate_raises_the_loss() -> None:
    values = tuple(0.1 + 0.01 * i for i in range(40))
    test = RangeTest("value_lr", ("value",), RATES, (values,), 0.7)
    assert test.edge == RATES[0]
    assert not test.learns


def test_changes_are_against_the_same_batches() -> None:
    assert changes([0.5, 0.25], [0.75, 0.5, 0.5]) == (-0.25, -0.25)
