"""`Grid`: the content of a heat map: the mean metric over seeds for two labels, and the line λ = 1."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qvtune.lab.outcome import DIVERGED, FAILED, FINISHED, PENDING, STOPPED, Outcome
from qvtune.report.labels import LR, LR_RATIO, SEED, VALUE_LR, finished, grouped, is_number, mean_sd, varied

# The status of a cell without a value is the first of these that one of its runs has.
WORST_FIRST = (FAILED, DIVERGED, STOPPED, PENDING)

Point = tuple[float, float]


@dataclass(frozen=True)
class Square:
    """The runs of one pair of values.

    Attributes:
        x: value of the horizontal label.
        y: value of the vertical label.
        values: metrics of the finished runs, one per seed.
        statuses: number of runs by status.
        reasons: why runs did not finish.
        unlearned: number of runs with a metric that learned nothing.
    """

    x: float
    y: float
    values: tuple[float, ...]
    statuses: dict[str, int]
    reasons: tuple[str, ...]
    unlearned: int = 0

    @property
    def learned(self) -> bool:
        """Whether a run of the cell learned anything, or none was checked."""
        return self.unlearned < max(1, len(self.values))

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None if no run has a metric."""
        return mean_sd(self.values)[0] if self.values else None

    @property
    def status(self) -> str:
        """The status that the cell shows: "finished" if it has a value."""
        return FINISHED if self.values else next((s for s in WORST_FIRST if s in self.statuses), FINISHED)


@dataclass(frozen=True)
class Grid:
    """A heat map.

    Attributes:
        labels: the labels that its runs share and runs of other panels do not.
        metric: name of the metric.
        x_name: label of the horizontal axis.
        y_name: label of the vertical axis.
        xs: values of the horizontal axis, rising.
        ys: values of the vertical axis, rising.
        cells: the cells that have runs, by place (column, row).
        best: places of the highest mean among cells that learned anything; several if equal, none if all are equal.
        diagonal: points of the line λ = 1 in places: 0 is the middle of the first column or row, 0.5 its edge.
        skipped: number of runs without a value on one of the axes.
    """

    labels: dict[str, Any]
    metric: str
    x_name: str
    y_name: str
    xs: list[float]
    ys: list[float]
    cells: dict[tuple[int, int], Square]
    best: list[tuple[int, int]]
    diagonal: list[Point]
    skipped: int


def make_grids(outcomes: Sequence[Outcome]) -> list[Grid]:
    """Return a grid per combination of the labels other than axes and seed; none without two numeric axes."""
    labels = varied(outcomes)
    axes = _axes(labels)
    if axes is None:
        return []
    panels = grouped(outcomes, [name for name in labels if name not in (*axes, SEED)])
    return [grid for shared, runs in panels if (grid := _grid(shared, runs, *axes)) is not None]


def _axes(labels: dict[str, list[Any]]) -> tuple[str, str] | None:
    numeric = [n for n, values in labels.items() if n != SEED and sum(map(is_number, values)) > 1]
    for pair in ((LR, VALUE_LR), (LR, LR_RATIO)):
        if set(pair) <= set(numeric):
            return pair
    return (numeric[0], numeric[1]) if len(numeric) > 1 else None


def _grid(labels: dict[str, Any], runs: list[Outcome], x_name: str, y_name: str) -> Grid | None:
    placed = [run for run in runs if is_number(run.labels.get(x_name)) and is_number(run.labels.get(y_name))]
    if not placed:
        return None
    xs, ys = (sorted({run.labels[name] for run in placed}) for name in (x_name, y_name))
    cells = {
        (xs.index(at[x_name]), ys.index(at[y_name])): _cell(at[x_name], at[y_name], members)
        for at, members in grouped(placed, (x_name, y_name))
    }
    known = {place: cell.mean for place, cell in cells.items() if cell.mean is not None}
    means = {place: mean for place, mean in known.items() if cells[place].learned}
    # If all cells are equal, none is better than the others.
    best = max(means.values(), default=None) if len(set(known.values())) > 1 or len(known) == 1 else None
    metric = next((run.result["main_metric"] for run in finished(placed)), "metric")
    return Grid(
        labels=labels,
        metric=metric,
        x_name=x_name,
        y_name=y_name,
        xs=xs,
        ys=ys,
        cells=cells,
        best=[place for place, mean in means.items() if mean == best],
        diagonal=_line_of_equal_rates(x_name, y_name, xs, ys),
        skipped=len(runs) - len(placed),
    )


def _cell(x: float, y: float, runs: list[Outcome]) -> Square:
    values = tuple(run.metric for run in finished(runs) if run.metric is not None)
    reasons = tuple(dict.fromkeys(run.reason for run in runs if run.reason))
    unlearned = sum(run.learned is False for run in finished(runs))
    return Square(x, y, values, dict(Counter(run.status for run in runs)), reasons, unlearned)


def _line_of_equal_rates(x_name: str, y_name: str, xs: list[float], ys: list[float]) -> list[Point]:
    if (x_name, y_name) == (LR, VALUE_LR):
        return diagonal(xs, ys)
    if (x_name, y_name) == (LR, LR_RATIO) and _edge(ys, 0) <= 1 <= _edge(ys, -1):
        return [(-0.5, place(1.0, ys)), (len(xs) - 0.5, place(1.0, ys))]
    return []


def diagonal(xs: list[float], ys: list[float]) -> list[Point]:
    """Return the line on which the values of both axes are equal, in places.

    Between two values an axis is logarithmic, so the line bends where the steps of the axes differ. It ends at the edge
    of the map. It is empty if the axes have no common range.
    """
    low, high = max(_edge(xs, 0), _edge(ys, 0)), min(_edge(xs, -1), _edge(ys, -1))
    if low > high:
        return []
    knots = sorted({low, high, *(value for value in (*xs, *ys) if low < value < high)})
    return [(place(value, xs), place(value, ys)) for value in knots]


def place(value: float, values: list[float]) -> float:
    """Return the position of `value`, by logarithms, on an axis whose rising `values` are at 0, 1, 2 and so on."""
    if len(values) == 1:
        return 0.0
    upper = next((i for i, known in enumerate(values) if known >= value and i > 0), len(values) - 1)
    before, after = math.log(values[upper - 1]), math.log(values[upper])
    return upper - 1 + (math.log(value) - before) / (after - before)


def _edge(values: list[float], end: int) -> float:
    """Return the value half a step beyond the first (0) or the last (-1)."""
    if len(values) == 1:
        return values[0]
    inner = values[1] if end == 0 else values[-2]
    return values[end] * math.sqrt(values[end] / inner)
