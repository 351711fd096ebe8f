"""`draw_chart`: a `Chart` as Vega-Lite, for pages and files alike."""

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qvtune.report.chart import Chart, Series, log_ticks
from qvtune.report.plot import FILE_WIDTH, HOVER, ROOM, Plot, to_spec
from qvtune.report.theme import CROSS, colour, dash, marker

if TYPE_CHECKING:
    import altair as alt

Words = dict[str, Any]

LEGEND_WIDTH = 38
# The width of a legend's entry in pixels: per letter of the name, and for its symbol and the gap after it.
LETTER, BESIDE_NAME = 6.2, 44
# Arrays of a series, with one value per point.
PER_POINT = ("x", "y", "low", "high", "fit", "crossed", "hover")
# Free space at each end of an axis: a fraction of a logarithmic axis, pixels of a linear one.
MARGIN, PADDING = 0.05, 12
# Opacity of the other series when one is chosen.
FAINT = 0.15
# Numbers in the form of `label_text`, and counts of parameters as 147k and 14M.
NUMBER = (
    "{0} == 0 ? '0' : abs({0}) >= 1e6 ? format({0} / 1e6, '.3~g') + 'M' : abs({0}) >= 1e4 ? "
    "format({0} / 1e3, '.3~g') + 'k' : abs({0}) < 1e-2 ? format({0}, '.3~e') : format({0}, '.6~g')"
)
DETAILS = (
    f"isValid(datum.hover) ? datum.hover : datum.series + '\\n' + ({NUMBER.format('datum.x')}) + ': ' + "
    "format(datum.y, abs(datum.y) < 1e-2 ? '.4~e' : '.5~g')"
)
BAND: Words = {"opacity": 0.18}
FIT: Words = {"strokeDash": [7, 4], "strokeWidth": 1}
MARK: Words = {"filled": True, "size": 55}
POINT: Words = {"filled": True, "size": 100}
CROSSED: Words = {"shape": CROSS, "size": 170, "strokeWidth": 2.5}


def draw_chart(chart: Chart) -> Plot:
    """Return a chart for pages and files.

    Its data has a row per series, with the points as arrays.
    """
    from altair.utils.schemapi import debug_mode

    # Tests check pictures against the schema; here it would take a third of the time.
    with debug_mode(False):
        return Plot(chart.title, chart.alternative, _spec(chart))


def _spec(chart: Chart) -> dict[str, Any]:
    import altair as alt

    layers = _layers(chart)
    if chart.has_names:
        chosen = alt.selection_point(name="chosen", fields=["series"], bind="legend")
        for layer in layers:
            full = layer.mark.opacity
            layer.encoding.opacity = alt.when(chosen).then(alt.value(full)).otherwise(alt.value(full * FAINT))
        layers[0] = layers[0].add_params(chosen)
    data = alt.Data(values=[_row(series, at) for at, series in _placed(chart)])
    spec = to_spec(alt.layer(*layers, _hovered(chart), data=data))
    # Altair would copy the picture for each of these.
    room = {"name": ROOM, "value": FILE_WIDTH}
    return spec | {"params": [*spec.get("params", []), room], "transform": [{"flatten": list(PER_POINT)}]}


def _placed(chart: Chart) -> list[tuple[int, Series]]:
    return [(at if series.place is None else series.place, series) for at, series in enumerate(chart.series)]


def _row(series: Series, place: int) -> dict[str, Any]:
    kinds = {"line": series.line, "marked": series.has_marks, "width": series.width}
    return {"series": _legend_name(series), **kinds, **{name: list(getattr(series, name)) for name in PER_POINT}}


def _legend_name(series: Series) -> str:
    return textwrap.fill(series.name, LEGEND_WIDTH)


def _symbol(series: Series, place: int) -> str:
    return marker(place) if series.has_marks else "stroke"


def _layers(chart: Chart) -> "list[alt.Chart]":
    """Return the layers of a chart, from back to front."""
    import altair as alt

    every = chart.series
    high: Words = {"y2": "high:Q"}
    dashes = {"strokeDash": _by_series(alt.StrokeDash, lambda _, place: dash(place), chart)}
    lines = dashes | {"strokeWidth": alt.StrokeWidth("width:Q", scale=None, legend=None)}
    markers = {"shape": _by_series(alt.Shape, _symbol, chart)}
    bar, cap = "!datum.line && isValid(datum.low)", {"orient": "horizontal", "size": 8, "thickness": 1.5}
    wanted = [
        (any(s.low and s.line for s in every), "datum.line && isValid(datum.low)", "low", "area", high, BAND),
        (any(s.low and not s.line for s in every), bar, "low", "rule", high, {"strokeWidth": 1.5}),
        (any(s.low and not s.line for s in every), bar, "low", "tick", {}, cap),
        (any(s.low and not s.line for s in every), bar, "high", "tick", {}, cap),
        (any(s.fit for s in every), "isValid(datum.fit)", "fit", "line", {}, FIT),
        (any(s.line for s in every), "datum.line", "y", "line", lines, {}),
        (any(s.has_marks and s.line for s in every), "datum.marked && datum.line", "y", "point", markers, MARK),
        (any(not s.line for s in every), "!datum.line", "y", "point", markers, POINT),
        (any(any(s.crossed) for s in every), "datum.crossed", "y", "point", {}, CROSSED),
    ]
    return [
        _layer(chart, where, y, channels, type=mark, **{"opacity": 1.0, **style})
        for is_there, where, y, mark, channels, style in wanted
        if is_there
    ]


def _layer(chart: Chart, where: str, y: str, channels: Words, **mark: Any) -> "alt.Chart":
    import altair as alt

    shared = {"x": _x(chart), "y": _y(chart, y), "color": _by_series(alt.Color, lambda _, place: colour(place), chart)}
    return alt.Chart(mark=alt.MarkDef(clip=True, **mark)).transform_filter(where).encode(**shared, **channels)


def _hovered(chart: Chart) -> "alt.Chart":
    """Return the layer that shows the point nearest to the pointer, with its numbers."""
    import altair as alt

    # Selected by these fields, since all points of a series come from one row.
    near = alt.selection_point(
        name="near", fields=["series", "x"], on="pointermove", clear="pointerout", nearest=True, empty=False
    )
    channels = {"tooltip": "details:N", "opacity": alt.when(near).then(alt.value(1)).otherwise(alt.value(0))}
    layer = _layer(chart, "isValid(datum.y)", "y", channels, type="point", filled=True, size=110)
    return layer.transform_calculate(details=DETAILS).add_params(near).properties(name=HOVER)


def _by_series(channel: Any, look: Callable[[Series, int], Any], chart: Chart) -> Any:
    """Return what distinguishes series: colours, symbols or dashes, with one legend for all of them."""
    import altair as alt

    looks = {_legend_name(series): look(series, place) for place, series in _placed(chart)}
    scale = alt.Scale(domain=list(looks), range=list(looks.values()))
    return channel("series:N", scale=scale, legend=_legend(chart) if chart.has_names else None)


def _legend(chart: Chart) -> "alt.Legend":
    import altair as alt

    longest = max(len(line) for series in chart.series for line in _legend_name(series).splitlines())
    # If no point has a marker, the legend shows the line itself, with its dashes.
    marked = any(series.has_marks for series in chart.series)
    return alt.Legend(
        title=None,
        orient="bottom",
        offset=10,
        columns=alt.expr(f"max(1, floor({ROOM} / {longest * LETTER + BESIDE_NAME:.0f}))"),
        labelExpr="split(datum.label, '\\n')",
        symbolType=alt.Undefined if marked else "stroke",
        symbolSize=70 if marked else 250,
        symbolOpacity=1,
    )


def _x(chart: Chart) -> "alt.X":
    import altair as alt

    scale: dict[str, Any] = {"nice": False, "zero": False, "padding": PADDING}
    axis: dict[str, Any] = {"tickMinStep": 1}
    if chart.log_x:
        scale, axis = _logarithmic(chart.xs)
    if ticks := chart.readable_x_ticks:
        axis = {"values": ticks, "labelExpr": NUMBER.format("datum.value")}
    return alt.X("x:Q", title=chart.x_title, scale=alt.Scale(**scale), axis=alt.Axis(**axis))


def _y(chart: Chart, name: str) -> "alt.Y":
    import altair as alt

    ys, ends = chart.ys, chart.y_range
    scale: dict[str, Any] = {"zero": False, "padding": 6}
    axis: dict[str, Any] = {"tickCount": 6}
    if chart.log_y:
        scale, axis = _logarithmic(ends or ys, 0 if ends else MARGIN)
    elif ends or len(set(ys)) == 1:
        # If all values are equal, a narrow range around them.
        margin = abs(ys[0]) / 10 or 0.1
        scale = {"domain": list(ends or (ys[0] - margin, ys[0] + margin)), "nice": False, "zero": False}
    if not chart.log_y and max(map(abs, ends or ys), default=1.0) < 1e-2:
        axis["labelExpr"] = NUMBER.format("datum.value")
    return alt.Y(f"{name}:Q", title=chart.y_title, scale=alt.Scale(**scale), axis=alt.Axis(**axis))


def _logarithmic(values: Sequence[float], margin: float = MARGIN) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return scale and axis of values above 0, with round numbers that have room."""
    low, high = (min(values), max(values)) if values else (0.1, 1.0)
    free = (high / low) ** margin if high > low else 1.5
    low, high = low / free, high * free
    axis: dict[str, Any] = {"labelExpr": NUMBER.format("datum.value")}
    if ticks := log_ticks(low, high):
        axis["values"] = ticks
    return {"type": "log", "domain": [low, high], "nice": False}, axis
