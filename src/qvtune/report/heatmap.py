"""The heat map over two labels, η_QK and η_V above all: as PNG and SVG by matplotlib, on the page by plotly."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qvtune.amounts import count
from qvtune.lab.outcome import FINISHED, UNLEARNED
from qvtune.report.cells import Cell, Grid
from qvtune.report.labels import LR, LR_RATIO, VALUE_LR, axis_title, describe, label_text, mean_text
from qvtune.report.theme import ACCENT, COLOUR_MAP, NEUTRAL, as_it_stands, plain

# The line λ = 1 leaves the middle of a cell, where the value is written, free: half its width and height.
FREE = (0.34, 0.24)
HATCHES = 5


def draw_heatmaps(grids: Sequence[Grid]) -> Figure:
    """Draw grids as panels, two in a row."""
    columns = min(len(grids), 2)
    rows = -(-len(grids) // columns)
    width = max(0.85 * max(len(grid.xs) for grid in grids) + 2.4, 4.5)
    height = max(0.62 * max(len(grid.ys) for grid in grids) + 1.6, 3.0)
    with as_it_stands():
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, grid in zip(panels, grids, strict=False):
            _draw(figure, axes, grid, colour_range(grid, grids))
        for axes in panels[len(grids) :]:
            axes.remove()
    return figure


def colour_range(grid: Grid, grids: Sequence[Grid]) -> tuple[float, float]:
    """Return the lowest and highest mean of the panels that share a colour scale: those of one task and metric."""
    alike = [g for g in grids if (g.metric, g.labels.get("task")) == (grid.metric, grid.labels.get("task"))]
    means = [cell.mean for other in alike for cell in other.cells.values() if cell.mean is not None]
    low, high = (min(means), max(means)) if means else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.005, high + 0.005)


def cell_text(cell: Cell) -> str:
    """Return what is written in a cell: its mean and number of seeds, or why it has none."""
    runs = sum(cell.statuses.values())
    if cell.mean is None:
        return cell.status if cell.status != FINISHED else "no metric"
    seeds = f"n = {len(cell.values)}" + (f" of {runs}" if len(cell.values) < runs else "")
    return f"{'' if cell.learned else f'{UNLEARNED} '}{cell.mean:.3f}" + (f"\n{seeds}" if runs > 1 else "")


def cell_details(grid: Grid, cell: Cell) -> str:
    """Return everything about a cell, in lines: rates, λ, mean ± sd, seeds, and why runs did not finish."""
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
    # Narrow enough for a phone; the table of runs has the whole reason.
    return "\n".join(lines + [line for reason in cell.reasons for line in textwrap.wrap(reason, 52)[:3]])


def visible_line(grid: Grid) -> tuple[list[float | None], list[float | None]]:
    """Return the line λ = 1 as coordinates with None where it gives way to the value in a cell."""
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


def _draw(figure: Figure, axes: Any, grid: Grid, limits: tuple[float, float]) -> None:
    image = axes.imshow(_means(grid), cmap=COLOUR_MAP, vmin=limits[0], vmax=limits[1], origin="lower", aspect="auto")
    figure.colorbar(image, ax=axes, label=grid.metric.replace("_", " "))
    for (column, row), cell in grid.cells.items():
        ink = NEUTRAL if cell.mean is None else _ink(cell.mean, limits)
        if cell.mean is None:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, hatch="///", edgecolor="#c0c0c0", facecolor="none", linewidth=0))
            ink = "#303030"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if cell.mean is None else None
        star = "★ " if (column, row) in grid.best else ""
        axes.text(column, row, star + cell_text(cell), ha="center", va="center", color=ink, fontsize=9, bbox=box)
    for column, row in grid.best:
        frame = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=ACCENT, linewidth=3)
        axes.add_patch(frame)
    if grid.diagonal:
        xs, ys = (np.array(part, dtype=float) for part in visible_line(grid))
        axes.plot(xs, ys, color="white", linewidth=4, solid_capstyle="butt")
        axes.plot(xs, ys, color="black", linewidth=1.6, label="λ = 1")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    axes.set_xlim(-0.5, len(grid.xs) - 0.5)
    axes.set_ylim(-0.5, len(grid.ys) - 0.5)
    axes.set_xticks(range(len(grid.xs)), [label_text(x) for x in grid.xs])
    axes.set_yticks(range(len(grid.ys)), [label_text(y) for y in grid.ys])
    axes.set_xlabel(axis_title(grid.x_name))
    axes.set_ylabel(axis_title(grid.y_name))
    axes.set_title(describe(grid.labels), loc="left", fontsize=10)


def plot_heatmap(grid: Grid, limits: tuple[float, float]) -> dict[str, Any]:
    """Return a grid as a plotly figure whose hover shows `cell_details`, without the page's colours."""
    import plotly.graph_objects as go

    means = _means(grid)
    details = [
        [
            _lines(cell_details(grid, grid.cells[i, j])) if (i, j) in grid.cells else "no run"
            for i in range(len(grid.xs))
        ]
        for j in range(len(grid.ys))
    ]
    heat = {
        "type": "heatmap",
        "x": list(range(len(grid.xs))),
        "y": list(range(len(grid.ys))),
        "z": [[None if np.isnan(mean) else float(mean) for mean in row] for row in means],
        "zmin": limits[0],
        "zmax": limits[1],
        "colorscale": COLOUR_MAP.capitalize(),
        "xgap": 2,
        "ygap": 2,
        "hovertext": details,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "hoverongaps": True,
        "colorbar": {"title": {"text": plain(grid.metric.replace("_", " ")), "side": "right"}, "thickness": 12},
    }
    layout = {
        "margin": {"l": 60, "r": 8, "t": 30, "b": 50},
        "height": 46 * len(grid.ys) + 150,
        "xaxis": _axis(grid.x_name, grid.xs),
        "yaxis": _axis(grid.y_name, grid.ys),
        "shapes": _shapes(grid),
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"},
        "template": "none",
        "dragmode": False,
    }
    return go.Figure([heat, *_line(grid), *_texts(grid, limits)], layout).to_plotly_json()


def _line(grid: Grid) -> list[dict[str, Any]]:
    if not grid.diagonal:
        return []
    xs, ys = visible_line(grid)
    line = {"type": "scatter", "mode": "lines", "x": xs, "y": ys, "hoverinfo": "skip", "name": "λ = 1"}
    # Dark on white, so that it can be seen on every colour and on both backgrounds.
    return [
        line | {"line": {"color": "white", "width": 6}, "showlegend": False},
        line | {"line": {"color": "black", "width": 2}, "showlegend": False},
        line | {"line": {"color": NEUTRAL, "width": 3}, "x": [None], "y": [None], "showlegend": True},
    ]


def _texts(grid: Grid, limits: tuple[float, float]) -> list[dict[str, Any]]:
    text = {"type": "scatter", "mode": "text", "hoverinfo": "skip", "showlegend": False}
    traces = []
    for known in (True, False):
        cells = {place: cell for place, cell in grid.cells.items() if (cell.mean is not None) == known}
        trace = text | {
            "x": [column for column, _ in cells],
            "y": [row for _, row in cells],
            "text": [("★ " if place in grid.best else "") + _lines(cell_text(cell)) for place, cell in cells.items()],
            "textfont": {"size": 11},
        }
        if known:  # the others take the page's colour
            trace["textfont"] = {
                "size": 11,
                "color": [_ink(c.mean, limits) for c in cells.values() if c.mean is not None],
            }
        traces += [trace] if cells else []
    return traces


def _shapes(grid: Grid) -> list[dict[str, Any]]:
    shapes: list[dict[str, Any]] = []
    for (column, row), cell in grid.cells.items():
        if cell.mean is not None:
            continue
        left, low = column - 0.47, row - 0.47
        offsets = [part * 0.94 / HATCHES for part in range(1, 2 * HATCHES)]
        lines = [
            f"M {left + max(o - 0.94, 0)} {low + min(o, 0.94)} L {left + min(o, 0.94)} {low + max(o - 0.94, 0)}"
            for o in offsets
        ]
        hatch = {"line": {"color": NEUTRAL, "width": 1}, "opacity": 0.45, "layer": "below"}
        shapes.append({"type": "path", "path": " ".join(lines), **hatch})
    for column, row in grid.best:
        corner = {"x0": column - 0.47, "x1": column + 0.47, "y0": row - 0.46, "y1": row + 0.46}
        shapes.append({"type": "rect", **corner, "line": {"color": ACCENT, "width": 3}})
    return shapes


def _axis(name: str, values: list[float]) -> dict[str, Any]:
    return {
        "title": {"text": plain(axis_title(name)), "standoff": 10},
        "tickvals": list(range(len(values))),
        "ticktext": [label_text(value) for value in values],
        "range": [-0.5, len(values) - 0.5],
        "showgrid": False,
        "fixedrange": True,
        "automargin": True,
        "tickangle": 0,
    }


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


def _means(grid: Grid) -> Any:
    means = np.full((len(grid.ys), len(grid.xs)), np.nan)
    for (column, row), cell in grid.cells.items():
        if cell.mean is not None:
            means[row, column] = cell.mean
    return means


def _ink(value: float, limits: tuple[float, float]) -> str:
    """Return black or white, whichever stands out on the colour of `value`."""
    shade = to_hex(colormaps[COLOUR_MAP]((value - limits[0]) / (limits[1] - limits[0])))
    red, green, blue = (int(shade[start : start + 2], 16) for start in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "#ffffff"


def _lines(text: str) -> str:
    return "<br>".join(plain(line) for line in text.splitlines())
