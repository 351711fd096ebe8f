"""The search from trial to trial, on losses that are known."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from qvtune.search.ranges import RangeTest
from qvtune.search.trials import (
    STEP,
    Rates,
    Trial,
    centre,
    chosen,
    compass_search,
    moves,
    probability_below,
    trial_length,
)

EXAMPLES = 400


def bowl(best: Rates, noise: float = 0.0, breaks: float = math.inf) -> Callable[[Rates], Trial]:
    """Trials whose loss is quadratic in the logarithms of the rates; those above `breaks` diverge."""
    spread = np.random.default_rng(0).normal(size=EXAMPLES)

    def run(rates: Rates) -> Trial:
        if max(rates.values()) > breaks:
            return Trial(dict(rates), 10, ())
        loss = sum(math.log10(rate / best[name]) ** 2 for name, rate in rates.items())
        own = np.random.default_rng(abs(hash(tuple(rates.values()))) % 2**32).normal(size=EXAMPLES)
        return Trial(dict(rates), 10, tuple(loss + spread + noise * own))

    return run


@pytest.mark.parametrize("best", [{"lr": 1e-3, "value_lr": 4e-3}, {"lr": 2e-2, "value_lr": 5e-4}])
def test_it_ends_near_the_best_rates(best: Rates) -> None:
    free = ["lr", "value_lr"]
    trials = compass_search({"lr": 3e-3, "value_lr": 3e-3}, free, 25, bowl(best))
    found = chosen(trials).rates
    for name in free:
        assert abs(math.log10(found[name] / best[name])) < 0.4, found


def test_it_makes_as_many_trials_as_it_may_and_none_twice() -> None:
    free = ["lr", "value_lr", "head_lr"]
    trials = compass_search(dict.fromkeys(free, 1e-2), free, 7, bowl(dict.fromkeys(free, 1e-4)))
    assert len(trials) == 7
    assert len({tuple(trial.rates.values()) for trial in trials}) == 7


def test_it_leaves_rates_that_diverge() -> None:
    run = bowl({"lr": 1e-3, "value_lr": 1e-3}, breaks=5e-2)
    trials = compass_search({"lr": 1e-1, "value_lr": 1e-1}, ["lr", "value_lr"], 8, run)
    assert trials[0].diverged
    assert not chosen(trials).diverged
    assert chosen(trials).rates["lr"] < 1e-2


def test_of_rates_that_are_not_told_apart_the_lowest_are_chosen() -> None:
    losses = tuple(np.random.default_rng(1).normal(1.0, 1.0, EXAMPLES))
    noisy = tuple(np.add(losses, np.random.default_rng(2).normal(-0.001, 0.5, EXAMPLES)))
    low, high = Trial({"lr": 1e-4}, 10, losses), Trial({"lr": 1e-2}, 10, noisy)
    clear = Trial({"lr": 1e-2}, 10, tuple(np.subtract(losses, 0.2)))
    assert chosen([high, low]) is low
    assert chosen([clear, low]) is clear


def test_a_fixed_rate_does_not_move() -> None:
    trials = compass_search({"lr": 1e-3, "value_lr": 7e-3}, ["lr"], 6, bowl({"lr": 1e-4, "value_lr": 1e-4}))
    assert {trial.rates["value_lr"] for trial in trials} == {7e-3}
    assert len({trial.rates["lr"] for trial in trials}) > 2


def test_moves_of_the_ratio_keep_the_product() -> None:
    for move in moves(["lr", "value_lr"])[2:]:
        assert sum(move.values()) == 0
        assert STEP ** (move["value_lr"] - move["lr"]) in (pytest.approx(STEP), pytest.approx(1 / STEP))


def test_probability_is_of_the_paired_difference() -> None:
    differences = np.random.default_rng(4).normal(-0.05, 1.0, 900)
    other = np.random.default_rng(5).normal(0.0, 30.0, 900)
    one, two = Trial({}, 1, tuple(other + differences)), Trial({}, 1, tuple(other))
    z = differences.mean() / (differences.std(ddof=1) / 30)
    assert probability_below(one, two) == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), abs=1e-9)


def test_trials_are_long_or_few() -> None:
    assert trial_length(1000, 10, 400) == (9, 100)
    number, steps = trial_length(100, 2, 10_000)
    assert (number, steps) == (5, 18)
    assert trial_length(1000, 1, 4) == (12, 8)
    number, steps = trial_length(100_000, 2, 100)
    assert number * (steps + 2) <= 100_000
    assert steps == 25


def test_a_side_without_a_drop_takes_its_rate_from_the_other() -> None:
    rates = (1e-3, 1e-2, 1e-1)
    silent = RangeTest("lr", ("query",), rates, ((0.0, 0.0, 0.0),), 0.7)
    learns = RangeTest("value_lr", ("value",), rates, ((-0.5, -0.5, -0.5),), 0.7)
    found = centre([silent, learns], balance=4.0)
    assert found["lr"] == pytest.approx(4 * found["value_lr"])  # where both change the output as much
    assert centre([silent, learns], balance=1e4)["lr"] == pytest.approx(rates[-1] / 10)
    other = RangeTest("lr", ("query",), rates, ((-0.5, -0.5, -0.5),), 0.7)
    nothing = RangeTest("value_lr", ("value",), rates, ((0.0, 0.0, 0.0),), 0.7)
    found = centre([other, nothing], balance=4.0)
    assert found["value_lr"] == pytest.approx(found["lr"] / 4)
    assert centre([other, learns], balance=4.0)["value_lr"] == centre([other, learns])["value_lr"]


def test_a_side_that_breaks_without_learning_begins_below_the_break() -> None:
    rates = tuple(10.0**power for power in range(-6, 2))
    losses = (-0.001, 0.0, 0.0, 0.0, 0.0, 0.2, 0.9, 0.9)
    test = RangeTest("value_lr", ("value",), rates, (losses,), 0.7)
    assert not test.learns
    assert test.edge is not None
    assert centre([test])["value_lr"] == pytest.approx(0.04 * test.edge)


def test_the_centre_is_a_tenth_of_the_deepest() -> None:
    rates = tuple(10.0 ** (power / 2) for power in range(-12, 0))
    losses = (0.0, 0.0, 0.0, -0.1, -0.2, -0.3, -0.2, -0.1, 0.5, 0.9, 0.9, 0.9)
    test = RangeTest("lr", ("query",), rates, (losses,), 0.7)
    assert test.learns
    assert test.rates[test.deepest] == rates[5]
    assert centre([test])["lr"] == pytest.approx(rates[5] / 10, rel=5e-3)
