"""`Finder`: range tests and trials on a live model, and the choice from them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from qvtune.errors import ConfigError, DivergedError
from qvtune.search.budget import (
    FEWEST_COMPARED,
    FEWEST_POINTS,
    FEWEST_TRIAL_STEPS,
    MOST_RANGE_PART,
    RANGE_PART,
    Budget,
)
from qvtune.search.given import HEAD_LR, LR, VALUE_LR
from qvtune.search.journal import Journal
from qvtune.search.ranges import LEAST_DROP, RISES, RangeTest, changes, rising_rates
from qvtune.search.runner import FORWARD_SHARE, TrialRunner
from qvtune.search.suggestion import Confidence, Suggestion
from qvtune.search.trials import (
    REPEATS,
    USUAL,
    RateByName,
    Trial,
    centre,
    chosen,
    compass_search,
    not_told_apart,
    probability_below,
    rivals,
    rounded,
    shrinkage,
    trial_length,
    trial_schedule,
)

# Number of range tests per side, each over different batches.
PASSES = 2
# Numbers of passes: each part of a search has its own batches, and all trials of a round have the same ones.
HEAD_PASS, WARM_PASS, SIDE_PASS, TRIAL_PASS = 0, 1, 10, 100
SURE, LIKELY = 0.9, 0.7


@dataclass(frozen=True)
class Side:
    """Groups that share a rate, each with its factor: λ for the value if λ is given."""

    rate: str
    groups: dict[str, float]


class Finder:
    """Finds the rates of an adapted model.

    Args:
        runner: trains the model, within `borrowed`.
        budget: what the search may spend.
        default: the rates without a search: "lr", "value_lr" and "head_lr".
        fixed: the rates among them that are given and not searched.
        lr_ratio: λ, if it is given and the rate of query and key is not.
        journal: stores the measurements.
    """

    def __init__(
        self,
        runner: TrialRunner,
        budget: Budget,
        default: RateByName,
        fixed: RateByName,
        lr_ratio: float | None,
        journal: Journal,
    ) -> None:
        self.runner, self.budget, self.journal = runner, budget, journal
        self.sides = make_sides(runner.groups, lr_ratio)
        self.default = {side.rate: default[side.rate] for side in self.sides}
        self.fixed = {name: rate for name, rate in fixed.items() if name in self.default}
        self.free = [side.rate for side in self.sides if side.rate not in self.fixed]
        self.cost = {"steps": 0, "forwards": 0.0, "seconds": 0.0}
        self._start: dict[str, Tensor] = {}
        self._ratio = lr_ratio
        self._notes: list[str] = []

    def find(self) -> Suggestion:
        """Run the range tests and the trials that the budget allows, and choose.

        If the budget is too small for range tests, there are only trials, near the method's default rates. If it is too
        small for two trials, the default rates are returned untested.

        Raises:
            ConfigError: if there is nothing to find.
            DivergedError: if the loss is not finite before any step, or at every rate that was tried.
        """
        if not self.free:
            raise ConfigError("every rate is given, so there is nothing to find. Leave out one of them.")
        self._start = self.runner.snapshot()
        points = self._points()
        ranges: list[RangeTest] = []
        balance = None
        if points:
            ranges = [self._test_head(points)] if HEAD_LR in self.free else []
            head_rate = (self.fixed | centre(ranges)).get(HEAD_LR, 0.0)
            sides = [side for side in self.sides if side.rate in self.free and side.rate != HEAD_LR]
            ranges += self._test_sides(sides, points, head_rate)
            balance = self._balance()
        trials = self._try(ranges, balance)
        return self._choose(ranges, trials, balance)

    @property
    def _spent(self) -> float:
        """What the measurements cost so far, in steps."""
        return self.cost["steps"] + self.cost["forwards"] * FORWARD_SHARE

    def _points(self) -> int:
        """Return the number of rates of each range test, or 0 if the budget is too small for a curve."""
        sides = sum(name != HEAD_LR for name in self.free)
        head = 1 + FORWARD_SHARE if HEAD_LR in self.free else 0
        warm = 1 if HEAD_LR in self.default else 0
        per_point = head + warm + (sides + FORWARD_SHARE) * PASSES * bool(sides)
        points = max(FEWEST_POINTS, int(RANGE_PART * self.budget.steps / per_point))
        if points * per_point <= MOST_RANGE_PART * self.budget.steps:
            return points
        least = math.ceil(FEWEST_POINTS * per_point / MOST_RANGE_PART)
        self._notes.append(f"The budget is too small for range tests, which need {least} steps in all.")
        return 0

    def _test_head(self, points: int) -> RangeTest:
        side = next(side for side in self.sides if side.rate == HEAD_LR)
        rates = rising_rates(points, self.default[HEAD_LR])
        still = self._piece("still/head", partial(self._still, points, HEAD_PASS, self._start))
        losses = self._piece("range/head", partial(self._rise, side, rates, HEAD_PASS, self._start))
        return make_range(side, rates, [losses], [still])

    def _test_sides(self, sides: Sequence[Side], points: int, head_rate: float) -> list[RangeTest]:
        """Run the range test of each side; a head, if there is one, learns for a while first and then stays fixed."""
        if not sides:
            return []
        numbers = range(SIDE_PASS, SIDE_PASS + PASSES)
        names = [f"still/{number}" for number in numbers]
        names += [f"range/{side.rate}/{number}" for side in sides for number in numbers]
        self.runner.restore(self._start)
        if HEAD_LR in self.default:
            learn = partial(self.runner.train, {"head": head_rate}, points, WARM_PASS)
            is_known = "warm" in self.journal
            self._piece("warm", learn)
            if is_known and not all(name in self.journal for name in names):
                learn()  # the journal stores losses, but no state
        state = self.runner.snapshot()
        still = [self._piece(f"still/{n}", partial(self._still, points, n, state)) for n in numbers]
        tests = []
        for side in sides:
            rates = rising_rates(points, self.default[side.rate])
            losses = [
                self._piece(f"range/{side.rate}/{n}", partial(self._rise, side, rates, n, state)) for n in numbers
            ]
            tests.append(make_range(side, rates, losses, still))
        return tests

    def _balance(self) -> float | None:
        """Return how many times as much a step changes attention's output through the value as through query and key.

        That is |δ²| / |δ¹| of Theorem 2 (Yao et al., IJCAI 2025) at equal rates, in the model's first step.
        """
        by_rate = {side.rate: side for side in self.sides}
        if not {LR, VALUE_LR} <= by_rate.keys():
            return None
        rates = {group: self.default[LR] for name in (LR, VALUE_LR) for group in by_rate[name].groups}
        found = [
            self._piece(f"balance/{n}", partial(self._sides, rates, n)) for n in range(SIDE_PASS, SIDE_PASS + PASSES)
        ]
        query_key, value = (float(np.mean(part)) for part in zip(*found, strict=True))
        return value / query_key if query_key > 0 and value > 0 else None

    def _sides(self, rates: RateByName, number: int) -> list[float]:
        self.runner.restore(self._start)
        changes = self.runner.output_changes(rates, number)
        query_key = next((changes[name] for name in ("query_key", "query", "key", "output") if name in changes), 0.0)
        return [query_key, changes.get("value", 0.0)]

    def _still(self, steps: int, number: int, state: Mapping[str, Tensor]) -> list[float]:
        self.runner.restore(state)
        return self.runner.losses(steps, number)

    def _rise(self, side: Side, rates: Sequence[float], number: int, state: Mapping[str, Tensor]) -> list[float]:
        self.runner.restore(state)
        return self.runner.train(side.groups, len(rates), number, schedule=rates)

    def _try(self, ranges: Sequence[RangeTest], balance: float | None) -> list[Trial]:
        left, evaluation = self.budget.steps - self._spent, self.runner.evaluation_cost
        number, steps = trial_length(left, evaluation, self.budget.full_steps)
        if steps < FEWEST_TRIAL_STEPS:
            number, steps = int(left / (FEWEST_TRIAL_STEPS + evaluation)), FEWEST_TRIAL_STEPS
        if number < FEWEST_COMPARED:
            least = math.ceil(self._spent + FEWEST_COMPARED * (FEWEST_TRIAL_STEPS + evaluation))
            self._notes.append(f"Nothing was compared: two trials need {least} steps in all.")
            return []

        def run(rates: RateByName, number: int = TRIAL_PASS) -> tuple[float, ...]:
            name = f"trial/{number}/" + "/".join(f"{rate}={value:g}" for rate, value in rates.items())
            return tuple(self._piece(name, partial(self._trial, rates, steps, number)))

        repeats = REPEATS if number >= USUAL else 0
        usual = self.default | self.fixed
        read = usual | self.fixed | centre(ranges, balance)
        between = {name: rounded(math.sqrt(rate * read[name])) for name, rate in usual.items()}
        starts = (usual, between) if ranges else (usual,)
        trials = compass_search(
            starts, self.free, number - repeats, lambda rates: Trial(dict(rates), steps, run(rates))
        )
        again = rivals(trials)[:repeats]
        return [replace(trial, again=run(trial.rates, TRIAL_PASS + 1)) if trial in again else trial for trial in trials]

    def _trial(self, rates: RateByName, steps: int, number: int) -> list[float]:
        self.runner.restore(self._start)
        by_group = {group: rates[side.rate] * factor for side in self.sides for group, factor in side.groups.items()}
        losses = self.runner.train(by_group, steps, number, schedule=self._schedule(steps))
        return self.runner.validate() if math.isfinite(losses[-1]) else []

    def _schedule(self, steps: int) -> list[float]:
        recipe = self.runner.recipe
        return trial_schedule(steps, recipe.warmup, decays=recipe.schedule != "constant")

    def _choose(self, ranges: Sequence[RangeTest], trials: Sequence[Trial], balance: float | None) -> Suggestion:
        best = chosen(trials) if trials else Trial(self.default | self.fixed, 0, ())
        if trials and best.diverged:
            tried = "; ".join(", ".join(f"{name} {rate:g}" for name, rate in trial.rates.items()) for trial in trials)
            raise DivergedError(
                f"every trial diverged, at {tried}. Check the data and the precision, or give lower rates by hand."
            )
        # The first trial has the method's default rates, which are meant for whole runs.
        own = not trials or best is trials[0]
        shrunk = (
            1.0 if own else shrinkage(self._schedule(best.steps), self.runner.full_schedule(self.budget.full_steps))
        )
        rates = {name: rounded(rate * shrunk) if name in self.free else rate for name, rate in best.rates.items()}
        value = rates.get(VALUE_LR)
        rate = rates.get(LR, value if value is not None else rates.get(HEAD_LR))
        assert rate is not None
        ratio = self._ratio or (value / rates[LR] if value is not None and LR in rates else 1.0)
        return Suggestion(
            lr=rate,
            lr_ratio=rounded(ratio),
            head_lr=rates.get(HEAD_LR),
            cost=self.cost | {"in_steps": self._spent, "part": self._spent / self.budget.full_steps},
            confidence=judge_choice(best, trials),
            balance=balance,
            choice=best,
            shrunk=shrunk,
            ranges=tuple(ranges),
            trials=tuple(trials),
            notes=(*self._notes, *(note for test in ranges for note in remarks(test))),
        )

    def _piece(self, name: str, function: Callable[[], list[float]]) -> list[float]:
        """Make a measurement, or take it from the journal, and count its cost."""

        def measure() -> dict[str, Any]:
            before, started = (self.runner.cost.steps, self.runner.cost.forwards), time.perf_counter()
            values = function()
            steps, forwards = self.runner.cost.steps - before[0], self.runner.cost.forwards - before[1]
            seconds = time.perf_counter() - started
            return {"values": values, "cost": {"steps": steps, "forwards": forwards, "seconds": seconds}}

        piece = self.journal.measure(name, measure)
        for part, amount in piece["cost"].items():
            self.cost[part] += amount
        return list(piece["values"])


def make_sides(groups: Sequence[str], lr_ratio: float | None) -> list[Side]:
    """Return the sides of a model whose groups have these names; the head comes last.

    Args:
        groups: names such as "query", "value" and "head".
        lr_ratio: λ, if it is given; the value then shares a rate with query and key.
    """
    names = [name for name in groups if name not in ("value", "head")]
    query_key = dict.fromkeys(names, 1.0)
    if "value" in groups and lr_ratio is not None and names:
        query_key["value"] = lr_ratio
    sides = [Side(LR, query_key)] if query_key else []
    if "value" in groups and "value" not in query_key:
        sides.append(Side(VALUE_LR, {"value": 1.0}))
    return sides + ([Side(HEAD_LR, {"head": 1.0})] if "head" in groups else [])


def make_range(
    side: Side, rates: Sequence[float], losses: Sequence[Sequence[float]], still: Sequence[Sequence[float]]
) -> RangeTest:
    """Return the range test of a side.

    Raises:
        DivergedError: if the loss was not finite before any step.
    """
    start = float(np.mean(still))
    if not math.isfinite(start):
        raise DivergedError(
            f"the loss is {start} before any step. Check the labels and the texts, or give --precision fp32."
        )
    passes = tuple(changes(found, before) for found, before in zip(losses, still, strict=True))
    return RangeTest(side.rate, tuple(side.groups), tuple(rates), passes, start)


def judge_choice(best: Trial, trials: Sequence[Trial]) -> Confidence:
    """Return how sure a choice is, from the validation examples that all trials share."""
    if not trials:
        return Confidence("none", None, {})
    others = [probability_below(best, trial) for trial in trials if trial is not best]
    probability = min(others, default=0.5)
    near = not_told_apart(best, trials)
    limits = {name: (min(t.rates[name] for t in near), max(t.rates[name] for t in near)) for name in best.rates}
    level = "high" if probability >= SURE else "medium" if probability >= LIKELY else "low"
    return Confidence(level, probability, limits)


def remarks(test: RangeTest) -> list[str]:
    """Return sentences about a range test that did not show an interval."""
    what = " and ".join(test.groups)
    if test.edge == test.rates[0]:
        return [f"{what}: every rate from {test.rates[0]:.1e} raised the loss by {RISES:.0%} or more."]
    notes = []
    if not test.learns:
        notes.append(
            f"{what}: no rate lowered the loss by {LEAST_DROP:.0%} by itself in {len(test.rates)} steps; the trials "
            "decide."
        )
    if test.edge is None:
        notes.append(f"{what}: no rate up to {test.rates[-1]:.1e} broke learning, which is a rise of {RISES:.0%}.")
    return notes
