"""`Chart`: lines and points over one axis, drawn by matplotlib for files and by plotly for pages."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, NullFormatter

from qvtune.report.labels import ALL_RUNS, label_text
from qvtune.report.theme import DASHES, MARKERS, PALETTE, as_it_stands, colour, plain, translucent

# Up to here every point is marked; a line of one point could not be seen otherwise.
FEW_POINTS = 12
LEGEND_WIDTH = 38
MOST_TICKS = 12


@dataclass(frozen=True)
class Series:
    """One line, or points where `line` is false.

    `low` and `high` are a band about a line and error bars of points. `fit` is drawn dashed through points. `crossed`
    marks points with a cross. `hover` is shown beside a point on the page; name and numbers where it is empty. `place`
    says which colour and symbol; that in its chart where it is None.
    """

    name: str
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    fit: list[float] = field(default_factory=list)
    crossed: list[bool] = field(default_factory=list)
    hover: list[str] = field(default_factory=list)
    line: bool = True
    width: float = 1.8
    place: int | None = None


@dataclass(frozen=True)
class Chart:
    """A picture of series. `caption` says what it shows and what was left out.

    `y_range` is the lowest and highest value on the vertical axis; all values fit in where it is None.
    """

    title: str
    x_title: str
    y_title: str
    series: list[Series]
    log_x: bool = False
    log_y: bool = False
    x_ticks: list[float] = field(default_factory=list)
    y_range: tuple[float, float] | None = None
    caption: str = ""


def draw_charts(charts: Sequence[Chart], columns: int = 3) -> Figure:
    """Draw charts beside each other, so many in a row."""
    columns = min(len(charts), columns)
    rows = -(-len(charts) // columns)
    below = max((len(chart.series) for chart in charts if _names_below(chart)), default=0)
    with as_it_stands():
        height = 3.2 + 0.19 * below
        figure = Figure(figsize=(max(3.7 * columns, 5), height * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, chart in zip(panels, charts, strict=False):
            _draw(axes, chart)
        for axes in panels[len(charts) :]:
            axes.remove()
    return figure


def _draw(axes: Any, chart: Chart) -> None:
    axes.set_title(textwrap.fill(chart.title, 36), fontsize=11)
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)
    axes.grid(alpha=0.3)
    if chart.log_x:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if chart.log_y:
        axes.set_yscale("log")
    if chart.y_range:
        axes.set_ylim(chart.y_range)
    for axis in [axes.xaxis] * chart.log_x + [axes.yaxis] * chart.log_y:
        # The formatter that comes with the scale writes TeX, which nothing reads here.
        axis.set_major_formatter(lambda value, _: _tick_text(value))
        axis.set_minor_formatter(_MinorTicks(labelOnlyBase=False))
    if chart.x_ticks:
        ticks = _readable(chart)
        axes.set_xticks(ticks, list(map(_tick_text, ticks)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    for place, series in _placed(chart):
        _draw_series(axes, series, place)
    if _has_names(chart):
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 5} if _names_below(chart) else {}
        axes.legend(frameon=False, fontsize=8, **below)


def _placed(chart: Chart) -> list[tuple[int, Series]]:
    return [(at if series.place is None else series.place, series) for at, series in enumerate(chart.series)]


class _MinorTicks(LogFormatter):
    """Writes the ticks that matplotlib would write, as the others are written."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return _tick_text(x) if super().__call__(x, pos) else ""


def _has_names(chart: Chart) -> bool:
    """Whether there is a series to tell from others."""
    return [series.name for series in chart.series] not in ([], [ALL_RUNS])


def _names_below(chart: Chart) -> bool:
    """Whether the names of the series would cover the lines."""
    return len(chart.series) > 4 or any(len(series.name) > 14 for series in chart.series)


def _draw_series(axes: Any, series: Series, place: int) -> None:
    shade, marker = colour(place), MARKERS[place % len(MARKERS)][0]
    dash = DASHES[place // len(PALETTE) % len(DASHES)][0] if series.line else ""
    style = {
        "color": shade,
        "linestyle": dash,
        "linewidth": series.width,
        "label": textwrap.fill(series.name, LEGEND_WIDTH),
    }
    if series.fit:
        axes.plot(series.x, series.fit, color=shade, linestyle="--", linewidth=1)
    few = marker if not series.line or len(series.x) <= FEW_POINTS else None
    points = [(x, y) for x, y, crossed in zip(series.x, series.y, series.crossed, strict=False) if crossed]
    if points:
        axes.plot(*zip(*points, strict=True), "x", color=shade, markersize=11, markeredgewidth=2)
    if series.low and not series.line:
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

    traces = [trace for place, series in _placed(chart) for trace in _traces(series, place)]
    x_axis = _axis(chart.x_title, chart.log_x)
    if chart.x_ticks:
        ticks = _readable(chart)
        x_axis |= {"tickvals": ticks, "ticktext": list(map(_tick_text, ticks))}
    layout = {
        "margin": {"l": 60, "r": 12, "t": 12, "b": 50},
        "height": 320 + 22 * sum(len(_wrapped(series.name)) for series in chart.series),
        "showlegend": _has_names(chart),
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
        "xaxis": x_axis,
        "yaxis": _axis(chart.y_title, chart.log_y) | _range(chart),
        "template": "none",
    }
    return go.Figure(traces, layout).to_plotly_json()


def _axis(title: str, logarithmic: bool) -> dict[str, Any]:
    return {
        "title": {"text": plain(title), "standoff": 10},
        "type": "log" if logarithmic else "linear",
        "automargin": True,
        "exponentformat": "e",
    }


def _range(chart: Chart) -> dict[str, Any]:
    """Return the chart's range, or a narrow one where all values are equal: plotly would show one unit about them."""
    if chart.y_range:
        # plotly counts in powers of ten on a logarithmic axis.
        return {"range": [math.log10(end) if chart.log_y else end for end in chart.y_range]}
    values = {y for series in chart.series for y in (*series.y, *series.low, *series.high)}
    if chart.log_y or len(values) != 1:
        return {}
    value = values.pop()
    margin = abs(value) / 10 or 0.1
    return {"range": [value - margin, value + margin]}


def _readable(chart: Chart) -> list[float]:
    """Return the ticks of the horizontal axis that have room for a number; one at 1 is kept before its neighbours."""
    at = {tick: math.log(tick) if chart.log_x else tick for tick in chart.x_ticks}
    apart = (max(at.values()) - min(at.values())) / MOST_TICKS
    kept: list[float] = []
    for tick in sorted(chart.x_ticks, key=lambda tick: (tick != 1, tick)):
        if all(abs(at[tick] - at[other]) >= apart for other in kept):
            kept.append(tick)
    return sorted(kept)


def _tick_text(value: float) -> str:
    """Return numbers of parameters as 147k and 14M."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if value >= 1e4 else label_text(value)


def _wrapped(name: str) -> list[str]:
    return textwrap.wrap(name, LEGEND_WIDTH)


def _traces(series: Series, place: int) -> list[dict[str, Any]]:
    shade, marker = colour(place), MARKERS[place % len(MARKERS)][1]
    name = _lines("\n".join(_wrapped(series.name)))
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
    if series.low and not series.line:
        above = [high - y for y, high in zip(series.y, series.high, strict=True)]
        below = [y - low for y, low in zip(series.y, series.low, strict=True)]
        trace["error_y"] = {"array": above, "arrayminus": below, "symmetric": False, "color": shade}
    if series.crossed:
        places = [place for place, crossed in enumerate(series.crossed) if crossed]
        cross = {"symbol": "x-thin", "size": 15, "line": {"width": 3, "color": shade}}
        points = {key: [trace[key][at] for at in places] for key in ("x", "y", "hovertext") if key in trace}
        return [trace, trace | points | {"mode": "markers", "marker": cross, "showlegend": False}]
    if series.fit:
        fit = {"line": {"color": shade, "width": 1, "dash": "dash"}, "showlegend": False, "hoverinfo": "skip"}
        group = {"type": "scatter", "mode": "lines", "legendgroup": str(place)}
        return [trace, {**group, **fit, "x": series.x, "y": series.fit}]
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
