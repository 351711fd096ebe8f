"""Trials: short runs that look for better rates step by step, all of one length and over the same batches."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qvtune.search.budget import FEWEST_TRIAL_STEPS
from qvtune.search.ranges import RangeTest

# Where trials begin, relative to the rate of the deepest drop: a range test spends few steps at each rate, and a run
# spends many. A tenth is what the test's users have found (fastai's `minimum / 10`).
CENTRE = 0.1
# Where a side breaks without having learned, this part of that rate stands for the rate of the deepest drop: where both
# are seen, one is about that far below the other.
BELOW_EDGE = 0.4
# By so much a move changes a rate, or a ratio of rates.
STEP = math.sqrt(10)
# As many trials, and of a full run's length this part if the budget allows; fewer trials rather than shorter ones.
FEWEST, MOST, LONGEST = 5, 12, 0.25

Rates = Mapping[str, float]
# Exponents of STEP by the name of a rate.
Move = Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """A short run.

    Attributes:
        rates: "lr", "value_lr" and "head_lr", those of them that mean something.
        steps: length of its schedule.
        losses: of every validation example, or batch, at its end; empty if it diverged.
    """

    rates: dict[str, float]
    steps: int
    losses: tuple[float, ...]

    @property
    def diverged(self) -> bool:
        """Whether the loss stopped being finite."""
        return not self.losses

    @property
    def loss(self) -> float:
        """The mean over validation; infinite if it diverged."""
        return float(np.mean(self.losses)) if self.losses else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold."""
        loss = self.loss if self.losses else None
        return {"rates": self.rates, "steps": self.steps, "loss": loss, "diverged": self.diverged}


def centre(ranges: Sequence[RangeTest], balance: float | None = None) -> dict[str, float]:
    """Return the rates at which trials begin: a tenth of that of each side's deepest drop.

    A side whose test shows nothing takes its rate from the other, so that a step changes attention's output as much
    through one as through the other: Theorem 2 asks that both do so at the same order.

    Args:
        ranges: the tests.
        balance: how many times as much the value changes the output as query and key do, at equal rates.
    """
    tests = {test.rate: test for test in ranges}
    found = {name: _anchor(test) * CENTRE for name, test in tests.items()}
    if balance is not None and {"lr", "value_lr"} <= tests.keys():
        shown = {name: test.learns or test.edge is not None for name, test in tests.items()}
        if shown["value_lr"] and not shown["lr"]:
            # Query and key of a model that was never trained change next to nothing at any rate.
            found["lr"] = min(found["value_lr"] * balance, tests["lr"].rates[-1] * CENTRE)
        if shown["lr"] and not shown["value_lr"]:
            found["value_lr"] = min(found["lr"] / balance, tests["value_lr"].rates[-1] * CENTRE)
    return {name: _rounded(rate) for name, rate in found.items()}


def _anchor(test: RangeTest) -> float:
    if test.learns or test.edge is None:
        return test.rates[test.deepest]
    return test.edge * BELOW_EDGE


def moves(free: Sequence[str]) -> list[Move]:
    """Return what a search tries from where it is: first all rates up or down, then λ, then the head.

    λ moves with the product of the two rates fixed, so that it does not stand for slower or faster.
    """
    sides = [name for name in free if name != "head_lr"]
    found: list[Move] = []
    if sides:
        found += [dict.fromkeys(sides, sign) for sign in (1.0, -1.0)]
    if len(sides) == 2:
        found += [{"lr": -sign / 2, "value_lr": sign / 2} for sign in (1.0, -1.0)]
    if "head_lr" in free:
        found += [{"head_lr": sign} for sign in (1.0, -1.0)]
    return found


def compass_search(start: Rates, free: Sequence[str], most: int, run: Callable[[Rates], Trial]) -> list[Trial]:
    """Move to better rates as long as there are trials left, and return all trials.

    A move is taken if the trial there is better; one that raises the sum of the logarithms of the rates must be better
    by a standard error, since rates that break do so late, and a short run flatters high ones.

    Args:
        start: the first trial's rates.
        free: names of the rates that move.
        most: how many trials.
        run: makes one.
    """
    trials = [run(start)]
    best = trials[0]
    seen = {_place(start)}
    directions = list(moves(free))
    waiting = list(directions)
    while waiting and len(trials) < most:
        move = waiting.pop(0)
        there = {name: _rounded(rate * STEP ** move.get(name, 0.0)) for name, rate in best.rates.items()}
        if _place(there) in seen:
            continue
        seen.add(_place(there))
        trials.append(run(there))
        if is_better(trials[-1], best, by_error=sum(move.values()) > 0):
            best = trials[-1]
            waiting = [move, *(other for other in directions if other != move)]
    return trials


def chosen(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the lowest rates among those that the best is not better than by a standard error."""
    best = min(trials, key=lambda trial: trial.loss)
    near = not_told_apart(best, trials)
    return min(near, key=lambda trial: sum(math.log(rate) for rate in trial.rates.values())) if near else best


def not_told_apart(best: Trial, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that `best` is not better than by a standard error, itself among them unless it diverged."""
    return [trial for trial in trials if not is_better(best, trial, by_error=True)]


def is_better(one: Trial, other: Trial, *, by_error: bool) -> bool:
    """Whether the first has the lower loss, and by more than a standard error of the difference if asked."""
    if one.diverged or other.diverged:
        return not one.diverged
    mean, error = paired_difference(one, other)
    return mean < (-error if by_error else 0.0)


def probability_below(one: Trial, other: Trial) -> float:
    """Return how probable it is that the first has the lower loss on other examples, by a normal paired difference."""
    if other.diverged:
        return 1.0
    mean, error = paired_difference(one, other)
    return statistics.NormalDist().cdf(-mean / error) if error > 0 else 0.5


def paired_difference(one: Trial, other: Trial) -> tuple[float, float]:
    """Return the mean difference of the losses over what both were validated on, and its standard error."""
    differences = np.subtract(one.losses, other.losses)
    return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))


def trial_length(steps: float, evaluation: float, full_steps: int) -> tuple[int, int]:
    """Return the number of trials and their length.

    Args:
        steps: what may be spent on them.
        evaluation: what an evaluation costs, in steps.
        full_steps: of the run that the rates are for.
    """
    wanted = max(FEWEST_TRIAL_STEPS, math.ceil(LONGEST * full_steps))
    number = min(MOST, max(FEWEST, int(steps / (wanted + evaluation))))
    return number, min(wanted if number > FEWEST else max(wanted, full_steps), int(steps / number - evaluation))


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")


def _place(rates: Rates) -> tuple[tuple[str, int], ...]:
    """Return where rates are on a grid finer than any move, so that the way there makes no difference."""
    return tuple((name, round(8 * math.log(rate, STEP))) for name, rate in rates.items())
