"""The search from trial to trial, on losses that are known."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from qvtune.search.ranges import RangeTest
from qvtune.search.trials import (
    RateByName,
    Trial,
    centre,
    chosen,
    compass_search,
    paired_difference,
    probability_below,
    rivals,
    shrinkage,
    trial_length,
    trial_schedule,
)

EXAMPLES = 400


def bowl(best: RateByName, noise: float = 0.0, breaks: float = math.inf) -> Callable[[RateByName], Trial]:
    """Trials whose loss is quadratic in the logarithms of the rates; those above `breaks` diverge."""
    spread = np.random.default_rng(0).normal(size=EXAMPLES)

    def run(rates: RateByName) -> Trial:
        if max(rates.values()) > breaks:
            return Trial(dict(rates), 10, ())
        loss = sum(math.log10(rate / best[name]) ** 2 for name, rate in rates.items())
        own = np.random.default_rng(abs(hash(tuple(rates.values()))) % 2**32).normal(size=EXAMPLES)
        return Trial(dict(rates), 10, tuple(loss + spread + noise * own))

    return run


@pytest.mark.parametrize("best", [{"lr": 1e-3, "value_lr": 4e-3}, {"lr": 2e-2, "value_lr": 5e-4}])
def test_it_ends_near_the_best_rates(best: RateByName) -> None:
    free = ["lr", "value_lr"]
    trials = compass_search(({"lr": 3e-3, "value_lr": 3e-3}, {"lr": 1e-3, "value_lr": 3e-3}), free, 25, bowl(best))
    found = chosen(trials).rates
    for name in free:
        assert abs(math.log10(found[name] / best[name])) < 0.4, found


def test_it_makes_as_many_trials_as_it_may_and_none_twice() -> None:
    free = ["lr", "value_lr", "head_lr"]
    starts = dict.fromkeys(free, 1e-2), dict.fromkeys(free, 1e-3)
    trials = compass_search(starts, free, 7, bowl(dict.fromkeys(free, 1e-4)))
    assert len(trials) == 7
    assert len({tuple(trial.rates.values()) for trial in trials}) == 7


def test_starts_at_one_place_are_tried_once() -> None:
    free = ["lr", "value_lr"]
    starts = {"lr": 1e-3, "value_lr": 2e-3}, {"lr": 1.01e-3, "value_lr": 2e-3}
    trials = compass_search(starts, free, 4, bowl({"lr": 1e-3, "value_lr": 2e-3}))
    assert len(trials) == 4
    assert trials[1].rates["lr"] not in (1e-3, 1.01e-3) or trials[1].rates["value_lr"] != 2e-3


def test_it_goes_on_from_the_better_start_and_first_towards_the_other() -> None:
    low, high = {"lr": 1e-4, "value_lr": 1e-3}, {"lr": 1e-3, "value_lr": 1e-2}
    best = {"lr": 2e-3, "value_lr": 1e-3}
    trials = compass_search((low, high), ["lr", "value_lr"], 3, bowl(best, breaks=5e-3))
    assert trials[1].diverged
    assert trials[2].rates == {"lr": 3.16e-4, "value_lr": 1e-3}


def test_moves_that_do_not_help_become_shorter() -> None:
    start = {"lr": 1e-3}
    trials = compass_search((start, {"lr": 1.3e-3}), ["lr"], 6, bowl({"lr": 1e-3}))
    assert [trial.rates["lr"] for trial in trials[:4]] == [1e-3, 1.3e-3, 3.16e-3, 3.16e-4]
    assert sorted(trial.rates["lr"] for trial in trials[4:]) == [5.62e-4, 1.78e-3]


def test_of_rates_that_are_not_told_apart_the_nearest_to_the_first_are_chosen() -> None:
    losses = tuple(np.random.default_rng(1).normal(1.0, 1.0, EXAMPLES))
    noisy = tuple(np.add(losses, np.random.default_rng(2).normal(-0.001, 0.5, EXAMPLES)))
    own, near, far = Trial({"lr": 1e-4}, 10, losses), Trial({"lr": 2e-4}, 10, noisy), Trial({"lr": 1e-2}, 10, noisy)
    clear = tuple(np.subtract(losses, 0.2))
    assert chosen([own, near, far]) is own
    better = Trial({"lr": 1e-2}, 10, clear)
    assert chosen([own, near, better]) is better
    assert chosen([own, better, Trial({"lr": 2e-3}, 10, clear)]).rates == {"lr": 2e-3}


def test_what_is_far_from_the_first_needs_more_evidence() -> None:
    differences = np.random.default_rng(7).normal(0.0, 1.0, EXAMPLES)
    differences += -1.5 / math.sqrt(EXAMPLES) * differences.std(ddof=1) - differences.mean()  # by 1.5 standard errors
    shared = np.random.default_rng(8).normal(1.0, 3.0, EXAMPLES)
    own, better = Trial({"lr": 1e-4}, 10, tuple(shared)), tuple(shared + differences)
    assert chosen([own, Trial({"lr": 4e-4}, 10, better)]).rates == {"lr": 4e-4}
    assert chosen([own, Trial({"lr": 1e-3}, 10, better)]) is own
    assert chosen([Trial({"lr": 1e-4}, 10, ()), Trial({"lr": 1e-3}, 10, better)]).rates == {"lr": 1e-3}


def test_a_fixed_rate_does_not_move() -> None:
    starts = {"lr": 1e-3, "value_lr": 7e-3}, {"lr": 1e-2, "value_lr": 7e-3}
    trials = compass_search(starts, ["lr"], 6, bowl({"lr": 1e-4, "value_lr": 1e-4}))
    assert {trial.rates["value_lr"] for trial in trials} == {7e-3}
    assert len({trial.rates["lr"] for trial in trials}) > 2


def test_a_trial_keeps_its_rates_and_then_lets_them_fall() -> None:
    factors = trial_schedule(20, 0.1, decays=True)
    assert factors[:2] == [0.5, 1.0]
    assert factors[2:16] == [1.0] * 14
    assert factors[16:] == [1.0, 0.75, 0.5, 0.25]
    assert trial_schedule(20, 0.0, decays=False) == [1.0] * 20


def test_a_run_gets_the_rate_at_which_a_random_walk_goes_as_far() -> None:
    trial, run = trial_schedule(100, 0.0, decays=True), [1 - step / 500 for step in range(500)]
    generator = np.random.default_rng(0)
    # The end of a random walk whose steps add up as factors do: their number, of steps of one size.
    walks = [np.abs(generator.choice([-1.0, 1.0], (4000, round(sum(f)))).sum(1)).mean() for f in (trial, run)]
    assert shrinkage(trial, run) == pytest.approx(walks[0] / walks[1], rel=0.05)
    assert shrinkage(run, trial) == 1.0


def test_probability_is_of_the_paired_difference() -> None:
    differences = np.random.default_rng(4).normal(-0.05, 1.0, 900)
    other = np.random.default_rng(5).normal(0.0, 30.0, 900)
    one, two = Trial({}, 1, tuple(other + differences)), Trial({}, 1, tuple(other))
    z = differences.mean() / (differences.std(ddof=1) / 30)
    assert probability_below(one, two) == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), abs=1e-9)


def test_a_repetition_tells_what_another_draw_changes() -> None:
    generator = np.random.default_rng(6)
    shared = generator.normal(0.0, 5.0, 900)

    def trial(first: float, second: float) -> Trial:
        noise = generator.normal(0.0, 0.1, (2, 900))
        return Trial({}, 1, tuple(shared + first + noise[0]), tuple(shared + second + noise[1]))

    same, other = trial(0.0, 0.0), trial(0.1, 0.1)
    assert probability_below(same, other) > 0.999
    mean, error = paired_difference(trial(0.0, 0.0), trial(0.3, -0.1))
    assert mean == pytest.approx(-0.1, abs=0.02)
    assert error == pytest.approx(0.2, abs=0.02)
    assert Trial({}, 1, (0.1,), ()).diverged


def test_the_choice_and_its_rival_are_repeated() -> None:
    clear = np.random.default_rng(1).normal(1.0, 1e-3, EXAMPLES)
    trials = [Trial({"lr": rate}, 10, tuple(clear + more)) for rate, more in ((1e-4, 0.3), (1e-3, 0.0), (1e-2, 0.1))]
    assert rivals(trials) == [trials[1], trials[0]]
    assert rivals([trials[1], trials[0], trials[2]]) == [trials[1], trials[2]]
    assert rivals([trials[0], Trial({"lr": 1.0}, 10, ())]) == [trials[0]]


def test_trials_are_long_or_few() -> None:
    assert trial_length(1000, 10, 400) == (7, 132)
    number, steps = trial_length(100, 2, 10_000)
    assert (number, steps) == (5, 18)
    assert trial_length(1000, 1, 4) == (12, 8)
    number, steps = trial_length(100_000, 2, 100)
    assert number * (steps + 2) <= 100_000
    assert steps == 50


def test_a_side_without_a_drop_takes_its_rate_from_the_other() -> None:
    rates = (1e-3, 1e-2, 1e-1)
    silent = RangeTest("lr", ("query",), rates, ((0.0, 0.0, 0.0),), 0.7)
    learns = RangeTest("value_lr", ("value",), rates, ((-0.5, -0.5, -0.5),), 0.7)
    found = centre([silent, learns], balance=4.0)
    assert found["lr"] == pytest.approx(4 * found["value_lr"])  # where both change the output as much
    assert centre([silent, learns], balance=1e4)["lr"] == pytest.approx(0.3 * rates[-1])
    other = RangeTest("lr", ("query",), rates, ((-0.5, -0.5, -0.5),), 0.7)
    nothing = RangeTest("value_lr", ("value",), rates, ((0.0, 0.0, 0.0),), 0.7)
    found = centre([other, nothing], balance=4.0)
    assert found["value_lr"] == pytest.approx(found["lr"] / 4)


def test_the_side_that_would_change_the_output_less_says_how_much() -> None:
    rates = tuple(10.0 ** (power / 2) for power in range(-12, 0))
    falling = tuple(-0.05 * place for place in range(12))
    late = RangeTest("lr", ("query",), rates, (falling,), 0.7)
    early = RangeTest("value_lr", ("value",), rates, ((*falling[:6], *[0.9] * 6),), 0.7)
    own = {test.rate: 0.3 * test.rates[test.deepest] for test in (late, early)}
    assert own["lr"] > 4 * own["value_lr"]
    found = centre([late, early], balance=4.0)
    assert found["value_lr"] == pytest.approx(own["value_lr"], rel=5e-3)
    assert found["lr"] == pytest.approx(4 * own["value_lr"], rel=5e-3)


def test_a_side_that_breaks_without_learning_begins_below_the_break() -> None:
    rates = tuple(10.0**power for power in range(-6, 2))
    losses = (-0.001, 0.0, 0.0, 0.0, 0.0, 0.2, 0.9, 0.9)
    test = RangeTest("value_lr", ("value",), rates, (losses,), 0.7)
    assert not test.learns
    assert test.edge is not None
    assert centre([test])["value_lr"] == pytest.approx(0.12 * test.edge)


def test_the_centre_is_a_part_of_the_deepest() -> None:
    rates = tuple(10.0 ** (power / 2) for power in range(-12, 0))
    losses = (0.0, 0.0, 0.0, -0.1, -0.2, -0.3, -0.2, -0.1, 0.5, 0.9, 0.9, 0.9)
    test = RangeTest("lr", ("query",), rates, (losses,), 0.7)
    assert test.learns
    assert test.rates[test.deepest] == rates[5]
    assert centre([test])["lr"] == pytest.approx(0.3 * rates[5], rel=5e-3)
