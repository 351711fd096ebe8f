"""The heat map over two labels, usually η_QK and η_V, as Vega-Lite."""

import json
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qvtune.amounts import count
from qvtune.lab.outcome import FINISHED, UNLEARNED
from qvtune.report.grid import Grid, Square
from qvtune.report.labels import LR, LR_RATIO, VALUE_LR, axis_title, describe, label_text, mean_text
from qvtune.report.plot import HOVER, Plot, to_spec
from qvtune.report.theme import ACCENT, NEUTRAL, ink

if TYPE_CHECKING:
    import altair as alt

# The line λ = 1 leaves the middle of a cell free for its value: half its width and height.
FREE = (0.34, 0.24)
HATCHES = 5
EDGE = 0.49
# Size of a cell in a file, and its height on a page, in pixels.
CELL_WIDTH, CELL_HEIGHT = 62, 44


def draw_heatmap(grid: Grid, limits: tuple[float, float]) -> Plot:
    """Return a grid for pages and files, coloured from the lowest to the highest of `limits`."""
    import altair as alt

    layers = [
        _cells(grid, limits), _hatches(grid), *_line(grid), *_frames(grid), *_texts(grid), _hovered(grid),
    ]  # fmt: skip
    spec = to_spec(alt.layer(*layers, data=alt.Data(values=_rows(grid, limits))))
    best = "; ".join(cell_details(grid, grid.cells[place]).replace("\n", ", ") for place in grid.best)
    axes = f"{axis_title(grid.x_name)} from left to right and {axis_title(grid.y_name)} upwards"
    text = f"Heat map of {grid.metric} with {axes}. Best: {best or 'none yet'}. The table of runs has all numbers."
    return Plot(
        describe(grid.labels), text, spec, height=CELL_HEIGHT * len(grid.ys), width=5 + 3.6 * len(grid.xs),
        file_width=max(CELL_WIDTH * len(grid.xs), 250),
    )  # fmt: skip


def colour_range(grid: Grid, grids: Sequence[Grid]) -> tuple[float, float]:
    """Return the lowest and highest mean of the panels that share a colour scale: those of one task and metric."""
    alike = [g for g in grids if (g.metric, g.labels.get("task")) == (grid.metric, grid.labels.get("task"))]
    means = [cell.mean for other in alike for cell in other.cells.values() if cell.mean is not None]
    low, high = (min(means), max(means)) if means else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.005, high + 0.005)


def cell_text(cell: Square) -> str:
    """Return the text of a cell: its mean and number of seeds, or why it has no value."""
    runs = sum(cell.statuses.values())
    if cell.mean is None:
        return cell.status if cell.status != FINISHED else "no metric"
    seeds = f"n = {len(cell.values)}" + (f" of {runs}" if len(cell.values) < runs else "")
    return f"{'' if cell.learned else f'{UNLEARNED} '}{cell.mean:.3f}" + (f"\n{seeds}" if runs > 1 else "")


def cell_details(grid: Grid, cell: Square) -> str:
    """Return all details of a cell, as lines: rates, λ, mean ± sd, seeds, and why runs did not finish."""
    at = describe({grid.x_name: cell.x, grid.y_name: cell.y})
    if (grid.x_name, grid.y_name) == (LR, VALUE_LR):
        at += f", λ {label_text(float(cell.y / cell.x))}"
    if (grid.x_name, grid.y_name) == (LR, LR_RATIO):
        at += f", η_V {label_text(float(cell.x * cell.y))}"
    lines = [at]
    if cell.values:
        lines.append(f"{grid.metric} {mean_text(cell.values)}")
    if cell.unlearned:
        lines.append(f"{UNLEARNED} {cell.unlearned} of {count(len(cell.values), 'run')} learned nothing")
    lines += [f"{number} {status}" for status, number in cell.statuses.items() if status != FINISHED]
    # Narrow enough for a phone; the table of runs has the full reason.
    return "\n".join(lines + [line for reason in cell.reasons for line in textwrap.wrap(reason, 52)[:3]])


def visible_line(grid: Grid) -> tuple[list[float | None], list[float | None]]:
    """Return the line λ = 1 as coordinates, with None where it leaves room for the value in a cell."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for (x0, y0), (x1, y1) in zip(grid.diagonal, grid.diagonal[1:], strict=False):
        for part in np.linspace(0, 1, 201):
            x, y = float(x0 + part * (x1 - x0)), float(y0 + part * (y1 - y0))
            written = (round(x), round(y)) in grid.cells
            free = abs(x - round(x)) < FREE[0] and abs(y - round(y)) < FREE[1]
            xs.append(None if written and free else x)
            ys.append(None if written and free else y)
    return xs, ys


def _rows(grid: Grid, limits: tuple[float, float]) -> list[dict[str, Any]]:
    """Return a row per place of the grid: its corners, its content, and its text under the pointer."""
    rows = []
    for row in range(len(grid.ys)):
        for column in range(len(grid.xs)):
            at: dict[str, Any] = {"x": column, "y": row, "left": column - EDGE, "right": column + EDGE}
            at |= {"low": row - EDGE, "high": row + EDGE}
            cell = grid.cells.get((column, row))
            if cell is None:
                rows.append(at | {"details": "no run"})
                continue
            best = (column, row) in grid.best
            at |= {"mean": cell.mean, "best": best, "text": ("★ " if best else "") + cell_text(cell)}
            if cell.mean is not None:
                at["ink"] = ink((cell.mean - limits[0]) / (limits[1] - limits[0]))
            rows.append(at | {"details": cell_details(grid, cell)})
    return rows


def _axis(name: str, values: list[float], channel: Any, field: str) -> Any:
    import altair as alt

    # An axis counts places; its labels are the values at these places.
    texts = json.dumps([label_text(value) for value in values])
    axis = alt.Axis(
        values=list(range(len(values))), labelExpr=f"{texts}[datum.value]", grid=False, ticks=False, domain=False
    )
    scale = alt.Scale(domain=[-0.5, len(values) - 0.5], nice=False, zero=False)
    return channel(f"{field}:Q", scale=scale, axis=axis, title=axis_title(name))


def _layer(
    grid: Grid, corners: tuple[str, str] | None = None, *, fields: tuple[str, str] = ("x", "y"), **mark: Any
) -> "alt.Chart":
    """Return a layer at places of the grid, or between them and the fields for the other corner."""
    import altair as alt

    x, y = _axis(grid.x_name, grid.xs, alt.X, fields[0]), _axis(grid.y_name, grid.ys, alt.Y, fields[1])
    layer = alt.Chart(mark=alt.MarkDef(**mark)).encode(x=x, y=y)
    return layer if corners is None else layer.encode(x2=corners[0], y2=corners[1])


def _rectangles(grid: Grid, **mark: Any) -> "alt.Chart":
    return _layer(grid, ("right", "high"), fields=("left", "low"), type="rect", **mark)


def _cells(grid: Grid, limits: tuple[float, float]) -> "alt.Chart":
    import altair as alt

    legend = alt.Legend(
        orient="top", direction="horizontal", titleOrient="left", gradientThickness=10, gradientLength=160, offset=18,
        tickCount=4,
    )  # fmt: skip
    scale = alt.Scale(scheme="viridis", domain=list(limits), clamp=True)
    colour = alt.Color("mean:Q", scale=scale, legend=legend, title=grid.metric.replace("_", " "))
    return _rectangles(grid).transform_filter("isValid(datum.mean)").encode(color=colour)


def _hatches(grid: Grid) -> "alt.Chart":
    """Return slanted lines over the cells that have runs but no value."""
    import altair as alt

    side = 2 * EDGE
    offsets = [part * side / HATCHES for part in range(1, 2 * HATCHES)]
    lines = [
        {
            "x": column - EDGE + max(o - side, 0),
            "y": row - EDGE + min(o, side),
            "x2": column - EDGE + min(o, side),
            "y2": row - EDGE + max(o - side, 0),
        }
        for (column, row), cell in grid.cells.items()
        if cell.mean is None
        for o in offsets
    ]
    layer = _layer(grid, ("x2", "y2"), type="rule", color=NEUTRAL, opacity=0.4, strokeWidth=1)
    return layer.properties(data=alt.Data(values=lines))


def _line(grid: Grid) -> "list[alt.Chart]":
    """Return the line λ = 1, dark on white to be visible on every colour, with its name at the end."""
    import altair as alt

    if not grid.diagonal:
        return []
    xs, ys = visible_line(grid)
    points = [{"at": at, "x": x, "y": y} for at, (x, y) in enumerate(zip(xs, ys, strict=True))]
    data = alt.Data(values=points)
    lines = [
        _layer(grid, type="line", color=colour, strokeWidth=width).encode(order="at:O").properties(data=data)
        for colour, width in (("white", 5), ("black", 2))
    ]
    x, y = grid.diagonal[-1]
    aside: dict[str, Any] = {"align": "left", "dx": 4} if x > len(grid.xs) - 0.51 else {"baseline": "bottom", "dy": -4}
    name = _layer(grid, type="text", text="λ = 1", **aside).properties(data=alt.Data(values=[{"x": x, "y": y}]))
    return [*lines, name]


def _frames(grid: Grid) -> "list[alt.Chart]":
    if not grid.best:
        return []
    return [_rectangles(grid, filled=False, stroke=ACCENT, strokeWidth=3).transform_filter("datum.best")]


def _texts(grid: Grid) -> "list[alt.Chart]":
    import altair as alt

    two = "length(split(datum.text, '\\n')) > 1 ? -6 : 0"
    texts = _layer(grid, type="text", lineBreak="\n", dy=alt.expr(two), fontSize=11)
    # A cell without a value takes the page's colour.
    known = texts.transform_filter("isValid(datum.mean)").encode(text="text:N", color=alt.Color("ink:N", scale=None))
    return [known, texts.transform_filter("!isValid(datum.mean) && isValid(datum.text)").encode(text="text:N")]


def _hovered(grid: Grid) -> "alt.Chart":
    return _rectangles(grid, opacity=0).encode(tooltip="details:N").properties(name=HOVER)


def caption(grids: Sequence[Grid], left_out: int) -> str:
    """Return what the heat map shows, in words."""
    grid = grids[0]
    several = any(sum(cell.statuses.values()) > 1 for grid in grids for cell in grid.cells.values())
    text = f"Mean {grid.metric.replace('_', ' ')} over seeds, n of them" if several else grid.metric.replace("_", " ")
    if any(grid.best for grid in grids):
        text += "; ★ marks the best cell" + (" of each panel" if len(grids) > 1 else "")
    text += "."
    if any(grid.diagonal for grid in grids):
        text += " On the line λ = 1 query and value have the same rate."
    if any(not cell.learned for grid in grids for cell in grid.cells.values()):
        text += f" {UNLEARNED} marks cells whose runs learned nothing: their metric is that of guessing."
    if any(cell.mean is None for grid in grids for cell in grid.cells.values()):
        text += " Hatched cells have no finished run."
    skipped = sum(grid.skipped for grid in grids)
    text += f" {count(skipped, 'run')} without a value on one of the axes left out." if skipped else ""
    return text + (f" {count(left_out, 'further panel')} left out." if left_out else "")
