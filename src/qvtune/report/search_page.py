"""The page of a search for rates: the range test of every side, the trials, and the choice."""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qvtune.report.chart import FEW_POINTS, Chart, Series
from qvtune.report.document import Page, Pictures, Table, entry
from qvtune.report.labels import AXIS_TITLES, LR, VALUE_LR, label_text
from qvtune.report.lines import draw_chart
from qvtune.report.page import write_page
from qvtune.search.ranges import ENDS, LEAST_DROP, RISES, RangeTest
from qvtune.search.suggestion import Suggestion
from qvtune.search.trials import Trial, not_told_apart

HEAD_LR = "head_lr"
TITLES = AXIS_TITLES | {HEAD_LR: "rate of the head"}
CHOSEN = "chosen"
# Colour and marker of trials, the same in every picture.
PLACES = {"worse": 0, CHOSEN: 1, "not told apart": 2, "diverged": 3}
# A curve that breaks is shown for this many points more; later points have another scale.
AFTER_BREAK = 2


class SearchReport:
    """A suggestion for readers.

    Args:
        name: name of the model and the data.
        suggestion: the result of the search.
    """

    def __init__(self, name: str, suggestion: Suggestion) -> None:
        self.name, self.suggestion = name, suggestion

    def sentences(self) -> list[str]:
        """Return sentences on the choice, its source, its confidence and its cost."""
        found = self.suggestion
        cost, sure = found.cost, found.confidence
        draws = "" if found.choice.again is None else ", over two draws of batches"
        balance = [] if found.balance is None else [_balance(found.balance, found.lr_ratio)]
        told = (
            "nothing was compared."
            if sure.probability is None
            else f"better than the next best trial with probability {sure.probability:.2f} by the held-out "
            f"examples{draws}. {_limits(sure.limits)}"
        )
        return [
            f"Suggested: {', '.join(self._rates())}.",
            _source(found),
            f"Confidence {sure.level}: {told}",
            f"Cost: {cost['in_steps']:.0f} steps, {cost['part']:.0%} of a full run ({cost['steps']} of training and "
            f"{cost['forwards']:.0f} batches forward alone, a third of a step each), {cost['seconds']:.0f} s.",
            *balance,
        ]

    def _rates(self) -> list[str]:
        found, searched = self.suggestion, self.suggestion.choice.rates
        sides = [f"η_QK {label_text(found.lr)}"] if LR in searched else []
        if VALUE_LR in searched:
            sides.append(f"λ {found.lr_ratio:g}" if sides else f"η_V {label_text(found.lr)}")
        return sides + ([] if found.head_lr is None else [f"head {label_text(found.head_lr)}"])

    @cached_property
    def charts(self) -> list[Chart]:
        """The range test of every side, and the trials in the plane of the two rates if both were searched."""
        found, best = self.suggestion, self.suggestion.choice
        charts = [_range_chart(test, best.rates[test.rate]) for test in found.ranges]
        if found.trials and LR in best.rates and VALUE_LR in best.rates:
            charts.append(_trial_chart(found))
        return charts

    def page(self) -> Page:
        """Make the page."""
        text = (
            "A range test trains one side alone while its rate rises; shown is the change of the loss against the same "
            "batches with nothing moved, averaged over neighbouring rates, with its spread over passes. Trials are "
            "short runs from the same start, over the same batches, the first at the method's own rates. A whole run "
            "gets lower rates than the trial that was chosen, since it is longer."
        )
        ranges, trials = self.suggestion.ranges, self.suggestion.trials
        parts: list[Any] = []
        if self.charts:
            plots = [draw_chart(chart) for chart in self.charts]
            parts.append(Pictures("Range tests and trials", plots, text, "search", columns=2))
        parts += [_range_table(ranges)] if ranges else []
        parts += [_trial_table(trials)] if trials else []
        return Page(f"Rates for {self.name}", self.sentences(), list(self.suggestion.notes), parts)

    def write(self, path: Path) -> list[Path]:
        """Write `report.html` and the picture `search` into a folder that exists, and return their paths."""
        return write_page(path, self.page())


def _range_chart(test: RangeTest, rate: float) -> Chart:
    end = len(test.rates) if test.broken is None else test.broken + 1 + AFTER_BREAK
    places = [i for i, value in enumerate(test.curve[:end]) if math.isfinite(value)]
    rates = [test.rates[i] for i in places]
    spread = [[change[i] for change in test.spread if i < len(change) and math.isfinite(change[i])] for i in places]
    curve = [test.curve[i] for i in places]
    name = " and ".join(test.groups)
    change = float(np.interp(math.log(rate), np.log(rates), curve))
    # Everything is shown up to the rise that counts as broken, and nothing beyond.
    rise = 2 * max(ENDS * test.drop, RISES * abs(test.start))
    lowest = min([0.0, *(value for values in spread for value in values)])
    return Chart(
        title=f"{name} alone",
        x_title=TITLES[test.rate],
        y_title="change of the loss",
        series=[
            Series(name, rates, curve, [min(values) for values in spread], [max(values) for values in spread]),
            Series(CHOSEN, [rate], [change], line=False),
        ],
        log_x=True,
        y_range=(lowest - 0.1 * (rise - lowest), rise),
        caption=f"{name}: {_usable(test)}.",
    )


def _trial_chart(found: Suggestion) -> Chart:
    trials, best = found.trials, found.choice
    near = [trial for trial in not_told_apart(best, trials) if trial is not best]
    groups = {
        "diverged": [t for t in trials if t.diverged],
        "worse": [t for t in trials if t is not best and not t.diverged and t not in near],
        "not told apart": near,
        CHOSEN: [best],
    }
    # Points in the same place differ in the head's rate; the last one covers the others.
    series = [
        Series(
            name,
            [trial.rates[LR] for trial in members],
            [trial.rates[VALUE_LR] for trial in members],
            hover=[f"loss {trial.loss:.4f}" for trial in members],
            line=False,
            place=PLACES[name],
        )
        for name, members in groups.items()
        if members
    ]
    if found.shrunk < 1:
        value = found.lr * found.lr_ratio
        series.append(Series("suggested for the whole run", [found.lr], [value], line=False, place=4))
    sides = [trial.rates[name] for trial in trials for name in (LR, VALUE_LR)]
    # A line with few points has a marker at each.
    line = [float(rate) for rate in np.geomspace(min(sides), max(sides), 2 * FEW_POINTS)]
    diagonal = Series("λ = 1", line, line, width=1.0, place=5)
    return Chart("trials", TITLES[LR], TITLES[VALUE_LR], [*series, diagonal], log_x=True, log_y=True)


def _range_table(ranges: tuple[RangeTest, ...]) -> Table:
    columns = ["side", "learns from", "lowest loss at", "breaks at", "drop of the loss", "loss before"]
    rows = [
        [
            entry(value)
            for value in (
                " and ".join(test.groups), test.low, test.rates[test.deepest] if test.learns else None, test.edge,
                test.drop, test.start,
            )
        ]
        for test in ranges
    ]  # fmt: skip
    return Table("Range tests", columns, rows)


def _trial_table(trials: tuple[Trial, ...]) -> Table:
    names = list(trials[0].rates)
    repeated = any(trial.again is not None for trial in trials)
    rows = [
        [entry(value) for value in (*(trial.rates[name] for name in names), trial.steps, *_losses(trial, repeated))]
        for trial in trials
    ]
    text = "The loss is of the held-out examples, after the best affine map of the outputs where qvtune knows the task."
    columns = [*(_symbol(name) for name in names), "steps", "loss", *(["loss over other batches"] if repeated else [])]
    return Table("Trials", columns, rows, sortable=True, text=text)


def _losses(trial: Trial, repeated: bool) -> list[float | None]:
    losses = [trial.losses, *([trial.again] if repeated else [])]
    return [float(np.mean(values)) if values else None for values in losses]


def _usable(test: RangeTest) -> str:
    if test.edge == test.rates[0]:
        return f"every rate raised the loss by {RISES:.0%} or more"
    start = (
        f"no rate lowered the loss by {LEAST_DROP:.0%} by itself"
        if test.low is None
        else f"learns from {label_text(test.low)}"
    )
    return start + (", and none broke it" if test.edge is None else f", breaks at {label_text(test.edge)}")


def _source(found: Suggestion) -> str:
    trial = ", ".join(f"{_symbol(name)} {label_text(rate)}" for name, rate in found.choice.rates.items())
    if not found.trials:
        return "These are the method's own rates, untested."
    if found.choice is found.trials[0]:
        return f"These are the method's own rates; none of {len(found.trials)} trials was better by a standard error."
    less = f" The whole run gets {found.shrunk:.2f} times its rates, since it is longer." if found.shrunk < 1 else ""
    return f"They are from the trial at {trial}, of {len(found.trials)} trials of {found.choice.steps} steps.{less}"


def _limits(limits: Mapping[str, tuple[float, float]]) -> str:
    told = [
        f"{_symbol(name)} {label_text(low)} to {label_text(high)}" for name, (low, high) in limits.items() if low < high
    ]
    if not told:
        return "Every other trial was worse by more than a standard error."
    return f"Trials not told apart from it: {'; '.join(told)}."


def _balance(balance: float, lr_ratio: float) -> str:
    return (
        f"The model's first step changes attention's output {balance:.2g} times as much through the value as through "
        f"query and key at equal rates, and {balance * lr_ratio:.2g} times at these."
    )


def _symbol(name: str) -> str:
    return {LR: "η_QK", VALUE_LR: "η_V", HEAD_LR: "head"}[name]
