"""`Chart`: lines and points over one axis, drawn by matplotlib for files and by plotly for pages."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from qvtune.report.labels import label_text
from qvtune.report.theme import DASHES, MARKERS, PALETTE, as_it_stands, colour, plain, translucent

# Up to here every point is marked; a line of one point could not be seen otherwise.
FEW_POINTS = 12
LEGEND_WIDTH = 38


@dataclass(frozen=True)
class Series:
    """One line, or points where `line` is false.

    `low` and `high` are a band about a line and error bars of points. `hollow` tells points that stand for something
    else than the others. `hover` is shown beside a point on the page; name and numbers where it is empty.
    """

    name: str
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    hollow: list[bool] = field(default_factory=list)
    hover: list[str] = field(default_factory=list)
    line: bool = True
    width: float = 1.8


@dataclass(frozen=True)
class Chart:
    """A picture of series. `caption` says what it shows and what was left out."""

    title: str
    x_title: str
    y_title: str
    series: list[Series]
    log_x: bool = False
    log_y: bool = False
    x_ticks: list[float] = field(default_factory=list)
    caption: str = ""


def draw_charts(charts: Sequence[Chart]) -> Figure:
    """Draw charts beside each other, three in a row."""
    columns = min(len(charts), 3)
    rows = -(-len(charts) // columns)
    with as_it_stands():
        figure = Figure(figsize=(max(3.4 * columns, 5), 3.4 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes, chart in zip(grid, charts, strict=False):
            _draw(axes, chart)
        for axes in list(grid)[len(charts) :]:
            axes.remove()
    return figure


def _draw(axes: Any, chart: Chart) -> None:
    axes.set_title(textwrap.fill(chart.title, 40), fontsize=11)
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)
    axes.grid(alpha=0.3)
    if chart.log_x:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if chart.log_y:
        axes.set_yscale("log")
    if chart.x_ticks:
        axes.set_xticks(chart.x_ticks, [label_text(value) for value in chart.x_ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
    for place, series in enumerate(chart.series):
        _draw_series(axes, series, place)
    if chart.series:
        names = len(chart.series) > 4 or max(len(series.name) for series in chart.series) > 14
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)} if names else {}
        axes.legend(frameon=False, fontsize=8, **below)


def _draw_series(axes: Any, series: Series, place: int) -> None:
    shade, marker = colour(place), MARKERS[place % len(MARKERS)][0]
    dash = DASHES[place // len(PALETTE) % len(DASHES)][0] if series.line else ""
    style = {"color": shade, "linestyle": dash, "linewidth": series.width, "label": textwrap.fill(series.name, 38)}
    few = marker if not series.line or len(series.x) <= FEW_POINTS else None
    if series.hollow:
        (line,) = axes.plot(series.x, series.y, marker=few, **style)
        points = [(x, y) for x, y, hollow in zip(series.x, series.y, series.hollow, strict=True) if hollow]
        axes.plot(*zip(*points, strict=True), "x", color=shade, markersize=10, markeredgewidth=2) if points else None
    elif series.low and not series.line:
        spread = [
            [y - low for y, low in zip(series.y, series.low, strict=True)],
            [high - y for y, high in zip(series.y, series.high, strict=True)],
        ]
        axes.errorbar(series.x, series.y, yerr=spread, marker=few, capsize=4, **style)
    else:
        axes.plot(series.x, series.y, marker=few, **style)
        if series.low:
            axes.fill_between(series.x, series.low, series.high, color=shade, alpha=0.18, linewidth=0)


def plot_chart(chart: Chart) -> dict[str, Any]:
    """Return a chart as a plotly figure, checked by plotly, without the page's colours."""
    import plotly.graph_objects as go

    traces = [trace for place, series in enumerate(chart.series) for trace in _traces(series, place)]
    x_axis: dict[str, Any] = {"title": plain(chart.x_title), "type": "log" if chart.log_x else "linear"}
    if chart.x_ticks:
        x_axis |= {"tickvals": chart.x_ticks, "ticktext": [label_text(value) for value in chart.x_ticks]}
    layout = {
        "margin": {"l": 60, "r": 12, "t": 12, "b": 50},
        "height": 340 + 19 * sum(1 + series.name.count(" ") // 8 for series in chart.series),
        "showlegend": len(chart.series) > 0,
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0},
        "hovermode": "closest",
        "xaxis": x_axis | {"automargin": True},
        "yaxis": {
            "title": plain(chart.y_title),
            "type": "log" if chart.log_y else "linear",
            "automargin": True,
            "exponentformat": "e",
        },
        "template": "none",
    }
    return go.Figure(traces, layout).to_plotly_json()


def _traces(series: Series, place: int) -> list[dict[str, Any]]:
    shade, marker = colour(place), MARKERS[place % len(MARKERS)][1]
    name = "<br>".join(textwrap.wrap(plain(series.name), LEGEND_WIDTH))
    few = len(series.x) <= FEW_POINTS
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": name,
        "x": series.x,
        "y": series.y,
        "mode": "markers" if not series.line else "lines+markers" if few else "lines",
        "line": {
            "color": shade,
            "width": series.width + 0.4,
            "dash": DASHES[place // len(PALETTE) % len(DASHES)][1],
        },
        "marker": {"color": shade, "size": 9, "symbol": marker},
        "hovertemplate": f"{name}<br>%{{x}}: %{{y:.5g}}<extra></extra>",
        "legendgroup": str(place),
    }
    if series.hover:
        trace |= {"hovertext": [_lines(text) for text in series.hover], "hovertemplate": "%{hovertext}<extra></extra>"}
    if series.hollow:
        trace["marker"] |= {"symbol": ["x-thin" if hollow else marker for hollow in series.hollow]}
        trace["marker"] |= {"line": {"width": [3 if hollow else 0 for hollow in series.hollow], "color": shade}}
    if series.low and not series.line:
        above = [high - y for y, high in zip(series.y, series.high, strict=True)]
        below = [y - low for y, low in zip(series.y, series.low, strict=True)]
        trace["error_y"] = {"array": above, "arrayminus": below, "symmetric": False, "color": shade}
    if not series.low or not series.line:
        return [trace]
    band = {
        "type": "scatter",
        "x": [*series.x, *reversed(series.x)],
        "y": [*series.high, *reversed(series.low)],
        "fill": "toself",
        "fillcolor": translucent(shade, 0.18),
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": str(place),
    }
    return [band, trace]


def _lines(text: str) -> str:
    return "<br>".join(plain(line) for line in text.splitlines())
