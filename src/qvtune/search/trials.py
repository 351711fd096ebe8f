"""Trials: short runs that look for better rates step by step, all of the same length and over the same batches."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from qvtune.search.budget import FEWEST_TRIAL_STEPS
from qvtune.search.ranges import RangeTest

# Trials begin at this fraction of the rate of the deepest drop: a range test spends few steps at each rate, and a run
# spends many. Range tests for whole runs usually take a tenth (fastai's `minimum / 10`); trials are shorter.
CENTRE = 0.3
# If a side breaks without having learned, this fraction of the breaking rate replaces the rate of the deepest drop. In
# tests that show both, the one is about this far below the other.
BELOW_EDGE = 0.4
# The first factor by which a move changes a rate, and the smallest: noise hides the effect of a smaller one.
STEP, LEAST_STEP = math.sqrt(10), 1.2
# In this last fraction of a trial the rates fall to zero; before it they stay. A whole run spends a quarter of its
# steps above three quarters of its rates. With its own linear schedule, a trial would leave high rates before they
# break.
DECAY = 0.2
# Numbers of trials; the second is used if each trial then has ENOUGH steps, or a quarter of a full run. No trial is
# longer than half a run; there are more trials instead.
FEWEST, USUAL, MOST = 5, 7, 12
ENOUGH, QUARTER, LONGEST = 100, 0.25, 0.5
# If there are enough trials, two of them repeat the choice and its rival over other batches.
REPEATS = 2

RateByName = Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """A short run.

    Attributes:
        rates: "lr", "value_lr" and "head_lr", as far as they apply.
        steps: the trial's length.
        losses: the loss of every validation example, or batch, at its end; empty if it diverged.
        again: the same losses after training over other batches; None if the trial was not repeated.
    """

    rates: dict[str, float]
    steps: int
    losses: tuple[float, ...]
    again: tuple[float, ...] | None = None

    @property
    def diverged(self) -> bool:
        """Whether the loss stopped being finite."""
        return not self.losses or self.again == ()

    @property
    def loss(self) -> float:
        """The mean validation loss, without the repetition, which has its own batches; infinite if it diverged."""
        return float(np.mean(self.losses)) if self.losses else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold."""
        again = float(np.mean(self.again)) if self.again else None
        loss = self.loss if self.losses else None
        return {"rates": self.rates, "steps": self.steps, "loss": loss, "again": again, "diverged": self.diverged}


def centre(ranges: Sequence[RangeTest], balance: float | None = None) -> dict[str, float]:
    """Return the rates at which trials begin.

    By its own test, a side would begin at a fraction of the rate of its deepest drop. Theorem 2 asks that a step
    changes attention's output to the same order through both sides. So the side with the smaller change sets the size,
    and the other side gets the rate at which its change is equal. A side whose test shows nothing is not considered.

    Args:
        ranges: the tests.
        balance: how many times as much the value changes the output as query and key do, at equal rates.
    """
    tests = {test.rate: test for test in ranges}
    found = {name: _anchor(test) * CENTRE for name, test in tests.items()}
    if balance is not None and {"lr", "value_lr"} <= tests.keys():
        shown = [name for name, test in tests.items() if test.learns or test.edge is not None]
        acts = {"lr": 1.0, "value_lr": balance}  # effect on the output, per unit of the rate
        change = min((found[name] * acts[name] for name in acts if name in shown), default=None)
        if change is not None:
            # In an untrained model, query and key change next to nothing at any rate.
            found |= {name: min(change / act, tests[name].rates[-1] * CENTRE) for name, act in acts.items()}
    return {name: rounded(rate) for name, rate in found.items()}


def _anchor(test: RangeTest) -> float:
    if test.learns or test.edge is None:
        return test.rates[test.deepest]
    return test.edge * BELOW_EDGE


def moves(free: Sequence[str], best: RateByName, other: RateByName) -> list[tuple[str, float]]:
    """Return the moves that a search tries from its best start: the name of a rate, and 1 for up or -1 for down.

    First each rate moves towards the other start, then away from it.
    """
    towards = [(name, 1.0 if other[name] > best[name] else -1.0) for name in free]
    return towards + [(name, -sign) for name, sign in towards]


def compass_search(
    starts: Sequence[RateByName], free: Sequence[str], most: int, run: Callable[[RateByName], Trial]
) -> list[Trial]:
    """Move one rate at a time from the better start while there are trials left, and return all trials.

    A move is accepted if its trial is better. If no move is, moves become half as long, in the logarithm.

    Args:
        starts: rates of the first two trials, or of the first.
        free: names of the rates that move.
        most: the largest number of trials.
        run: makes a trial.
    """
    seen = {_place(start): start for start in starts}
    trials = [run(start) for start in seen.values()]
    best = best_of(trials)
    order = moves(free, best.rates, starts[0] if best is trials[-1] else starts[1])
    step, waiting = STEP, list(order)
    while len(trials) < most and step > LEAST_STEP:
        if not waiting:
            step, waiting = math.sqrt(step), list(order)
        name, sign = waiting.pop(0)
        there = {**best.rates, name: rounded(best.rates[name] * step**sign)}
        if _place(there) in seen:
            continue
        seen[_place(there)] = there
        trials.append(run(there))
        if is_better(trials[-1], best, by_error=False):
            best = trials[-1]
            waiting = [(name, sign), *(move for move in order if move[0] != name)]
    return trials


def chosen(trials: Sequence[Trial]) -> Trial:
    """Return the trial nearest to the first among those that the best does not beat by a standard error.

    Only trials that are clearly better than the first compete with it: better by one standard error per move of √10
        away from it, and by at least one. Rates far from proven defaults need more evidence.
    """
    first = trials[0]
    convincing = [trial for trial in trials[1:] if _is_convincing(trial, first)]
    if not convincing:
        return best_of(trials) if first.diverged else first
    near = not_told_apart(best_of(convincing), convincing)
    return min(near, key=lambda trial: distance(trial.rates, first.rates))


def _is_convincing(trial: Trial, first: Trial) -> bool:
    if trial.diverged or first.diverged:
        return not trial.diverged
    mean, error = paired_difference(trial, first)
    return mean < -error * max(1.0, distance(trial.rates, first.rates) / math.log(STEP))


def distance(one: RateByName, other: RateByName) -> float:
    """Return the distance between rates: the Euclidean distance of their logarithms."""
    return math.dist([math.log(rate) for rate in one.values()], [math.log(other[name]) for name in one])


def best_of(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the lowest loss."""
    return reduce(lambda best, trial: trial if is_better(trial, best, by_error=False) else best, trials)


def rivals(trials: Sequence[Trial]) -> list[Trial]:
    """Return the choice and its rival: the first trial, or the best of the others if the first was chosen."""
    choice = chosen(trials)
    others = [trials[0]] if choice is not trials[0] else list(trials[1:])
    return [trial for trial in (choice, *([best_of(others)] if others else [])) if not trial.diverged]


def not_told_apart(best: Trial, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that `best` does not beat by a standard error, with `best` itself unless it diverged."""
    return [trial for trial in trials if not is_better(best, trial, by_error=True)]


def is_better(one: Trial, other: Trial, *, by_error: bool) -> bool:
    """Whether the first has the lower loss; with `by_error`, by more than a standard error of the difference."""
    if one.diverged or other.diverged:
        return not one.diverged
    mean, error = paired_difference(one, other)
    return mean < (-error if by_error else 0.0)


def probability_below(one: Trial, other: Trial) -> float:
    """Return the probability that the first has the lower loss on other examples, by a normal paired difference."""
    if other.diverged:
        return 1.0
    mean, error = paired_difference(one, other)
    return statistics.NormalDist().cdf(-mean / error) if error > 0 else 0.5


def paired_difference(one: Trial, other: Trial) -> tuple[float, float]:
    """Return the mean difference of the losses on the same validation examples, and its standard error.

    If both were repeated, the error includes the effect of other batches.
    """
    differences = np.subtract(one.losses, other.losses)
    between = 0.0
    if one.again is not None and other.again is not None:
        second = np.subtract(one.again, other.again)
        between = float(differences.mean() - second.mean()) / 2
        differences = (differences + second) / 2
    within = float(differences.std(ddof=1) / math.sqrt(len(differences)))
    return float(differences.mean()), math.hypot(within, between)


def trial_schedule(steps: int, warmup: float, *, decays: bool) -> list[float]:
    """Return the factors of a trial's rates by step: rising over the warmup, then 1, falling to zero at the end.

    Args:
        steps: steps of the trial.
        warmup: fraction of the steps over which the rates rise.
        decays: whether the rates fall at the end, as they do in the run that they are for.
    """
    rise, fall = max(1, round(warmup * steps)), max(1.0, DECAY * steps)
    return [min(1.0, (i + 1) / rise, (steps - i) / fall if decays else 1.0) for i in range(steps)]


def trial_length(steps: float, evaluation: float, full_steps: int) -> tuple[int, int]:
    """Return the number of trials and their length.

    Args:
        steps: steps that all trials together may cost.
        evaluation: cost of an evaluation, in steps.
        full_steps: steps of the run that the rates are for.
    """
    enough = max(FEWEST_TRIAL_STEPS, min(ENOUGH, math.ceil(QUARTER * full_steps)))
    number = USUAL if steps / USUAL - evaluation >= enough else FEWEST
    longest = max(FEWEST_TRIAL_STEPS, math.ceil(LONGEST * full_steps))
    if steps / number - evaluation > longest:
        number = min(MOST, int(steps / (longest + evaluation)))
    return number, min(longest, int(steps / number - evaluation))


def shrinkage(trial: Sequence[float], run: Sequence[float]) -> float:
    """Return the factor, at most 1, from the best trial's rates to the rates for a run.

    If steps add up like a random walk, run and trial move the weights equally far when η √Σf is the same, where f are
    the factors of the rates by step. Bjorck et al. (2024) measured that the best rate of language models follows a
    power of about a third of the number of steps. Weights that drift in one direction would need a power of one.

    Args:
        trial: factors of the rates of the trial's steps.
        run: factors of the rates of the run's steps.
    """
    return min(1.0, math.sqrt(sum(trial) / sum(run)))


def rounded(rate: float) -> float:
    """Return a rate with three significant digits."""
    return float(f"{rate:.3g}")


def _place(rates: RateByName) -> tuple[tuple[str, int], ...]:
    """Return the position of rates on a grid finer than any move, so that it does not depend on the path to it."""
    return tuple((name, round(8 * math.log(rate, STEP))) for name, rate in rates.items())
