"""What a search for rates saw: the range test of every side, the trials, and the choice."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qvtune.report.chart import FEW_POINTS, Chart, Series, draw_charts
from qvtune.report.document import Page, Pictures, Table, entry, render
from qvtune.report.labels import AXIS_TITLES, LR, VALUE_LR, label_text
from qvtune.report.page import save_figures
from qvtune.report.run_page import plot
from qvtune.search.ranges import RangeTest
from qvtune.search.suggestion import Suggestion
from qvtune.search.trials import Trial, chosen, not_told_apart
from qvtune.train.folder import write_text

HEAD_LR = "head_lr"
TITLES = AXIS_TITLES | {HEAD_LR: "rate of the head"}
CHOSEN = "chosen"
# Of a curve that breaks, so many points more are shown; what follows has another scale.
AFTER_BREAK = 2


class SearchReport:
    """A suggestion for people.

    Args:
        name: of the model and the data.
        suggestion: what was found.
    """

    def __init__(self, name: str, suggestion: Suggestion) -> None:
        self.name, self.suggestion = name, suggestion

    def sentences(self) -> list[str]:
        """Return the choice, how sure it is, and what it cost."""
        found = self.suggestion
        cost, sure = found.cost, found.confidence
        head = "" if found.head_lr is None else f", head {label_text(found.head_lr)}"
        limits = "; ".join(
            f"{_symbol(name)} {label_text(low)} to {label_text(high)}" for name, (low, high) in sure.limits.items()
        )
        balance = [] if found.balance is None else [_balance(found.balance, found.lr_ratio)]
        return [
            f"Suggested: η_QK {label_text(found.lr)}, λ {found.lr_ratio:g}{head}.",
            f"Confidence {sure.level}: better than the next best trial with probability {sure.probability:.2f} by the "
            f"held-out examples. Not told apart from it: {limits}.",
            f"Cost: {cost['in_steps']:.0f} steps, {cost['part']:.0%} of a full run ({cost['steps']} of training and "
            f"{cost['forwards']:.0f} batches forward alone, a third of a step each), {cost['seconds']:.0f} s.",
            *balance,
        ]

    @cached_property
    def charts(self) -> list[Chart]:
        """The range test of every side, and the trials in the plane of the two rates where both were searched."""
        best = chosen(self.suggestion.trials)
        charts = [_range_chart(test, best.rates[test.rate]) for test in self.suggestion.ranges]
        if LR in best.rates and VALUE_LR in best.rates:
            charts.append(_trial_chart(self.suggestion.trials, best))
        return charts

    def page(self) -> Page:
        """Make the page."""
        text = (
            "A range test trains one side alone while its rate rises; shown is the change of the loss against the same "
            "batches with nothing moved, with its spread over passes. Trials are short runs from the same start, over "
            "the same batches."
        )
        pictures = Pictures("Range tests and trials", [plot(chart) for chart in self.charts], text)
        parts: list[Any] = [pictures, _range_table(self.suggestion.ranges), _trial_table(self.suggestion.trials)]
        return Page(f"Rates for {self.name}", self.sentences(), list(self.suggestion.notes), parts)

    def write(self, path: Path) -> list[Path]:
        """Write `report.html` and the picture `search` into a folder that exists, and return their paths."""
        write_text(path / "report.html", render(self.page()))
        return [path / "report.html", *save_figures(path, {"search": draw_charts(self.charts, columns=2)})]


def _range_chart(test: RangeTest, rate: float) -> Chart:
    end = len(test.rates) if test.broken is None else test.broken + 1 + AFTER_BREAK
    places = [i for i, value in enumerate(test.curve[:end]) if math.isfinite(value)]
    rates = [test.rates[i] for i in places]
    spread = [[change[i] for change in test.changes if i < len(change)] for i in places]
    curve = [test.curve[i] for i in places]
    nearest = min(range(len(rates)), key=lambda i: abs(math.log(rates[i] / rate)))
    name = " and ".join(test.groups)
    return Chart(
        title=f"{name} alone",
        x_title=TITLES[test.rate],
        y_title="change of the loss",
        series=[
            Series(name, rates, curve, [min(values) for values in spread], [max(values) for values in spread]),
            Series(CHOSEN, [rate], [curve[nearest]], line=False),
        ],
        log_x=True,
        caption=f"{name}: {_usable(test)}.",
    )


def _trial_chart(trials: tuple[Trial, ...], best: Trial) -> Chart:
    near = [trial for trial in not_told_apart(best, trials) if trial is not best]
    groups = {
        CHOSEN: [best],
        "not told apart": near,
        "worse": [t for t in trials if t is not best and not t.diverged and t not in near],
        "diverged": [t for t in trials if t.diverged],
    }
    series = [
        Series(
            name,
            [trial.rates[LR] for trial in members],
            [trial.rates[VALUE_LR] for trial in members],
            hover=[f"loss {trial.loss:.4f}" for trial in members],
            line=False,
        )
        for name, members in groups.items()
        if members
    ]
    sides = [trial.rates[name] for trial in trials for name in (LR, VALUE_LR)]
    # Of a line with few points each is marked.
    line = [float(rate) for rate in np.geomspace(min(sides), max(sides), 2 * FEW_POINTS)]
    diagonal = Series("λ = 1", line, line, width=1.0)
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
    rows = [
        [entry(value) for value in (*trial.rates.values(), trial.steps, None if trial.diverged else trial.loss)]
        for trial in trials
    ]
    text = "The loss is of the held-out examples, after the best affine map of the outputs where qvtune knows the task."
    return Table("Trials", [*(_symbol(name) for name in names), "steps", "loss"], rows, sortable=True, text=text)


def _usable(test: RangeTest) -> str:
    if test.edge == test.rates[0]:
        return "every rate raised the loss"
    start = "no rate lowered the loss by itself" if test.low is None else f"learns from {label_text(test.low)}"
    return start + (", and none broke it" if test.edge is None else f", breaks at {label_text(test.edge)}")


def _balance(balance: float, lr_ratio: float) -> str:
    return (
        f"The model's first step changes attention's output {balance:.2g} times as much through the value as through "
        f"query and key at equal rates, and {balance * lr_ratio:.2g} times at these."
    )


def _symbol(name: str) -> str:
    return {LR: "η_QK", VALUE_LR: "η_V", HEAD_LR: "head"}[name]
