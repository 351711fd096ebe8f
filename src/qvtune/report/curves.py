"""The picture of a run: loss, metric and the rate of every group over the steps."""

import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

FEW_POINTS = 12


def draw_curves(records: list[dict[str, Any]], metric: str) -> Figure:
    """Draw the logged steps of a run.

    Args:
        records: lines of `metrics.jsonl`.
        metric: name of the task's main metric.
    """
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    loss, score, rate = figure.subplots(1, 3)
    _line(loss, records, "loss", "training")
    _line(loss, records, "eval_loss", "validation", marker="o")
    loss.set_title("loss")
    _line(score, records, f"eval_{metric}", "validation", marker="o")
    _line(score, records, f"eval_tuning_{metric}", "tuning", marker="o")
    score.set_title(metric.replace("_", " "))
    # Rates that are equal lie on one line: wider ones below show that there are several.
    names = sorted({name for record in records for name in record if name.startswith("lr/")})
    for place, name in enumerate(names):
        _line(rate, records, name, name.removeprefix("lr/"), linewidth=1.5 + 2 * (len(names) - 1 - place))
    rate.set_title("learning rate")
    for axes in (loss, score, rate):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if axes.get_lines():
            axes.legend(frameon=False)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure as PNG or SVG, by the suffix."""
    figure.savefig(path, dpi=110)


def inline_svg(figure: Figure) -> str:
    """Return a figure as an SVG element for a page: transparent, with axes and text in the page's own colour."""
    file = io.StringIO()
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    with rc_context({"svg.fonttype": "none", "font.family": ["system-ui", "sans-serif"]}):
        figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    # matplotlib writes black as #000000 or, for text, not at all.
    return svg[svg.index("<svg") :].replace("#000000", "currentColor").replace("<svg ", '<svg fill="currentColor" ', 1)


def _line(axes: Any, records: list[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    points = [(record["step"], record[key]) for record in records if key in record]
    if points:
        if len(points) <= FEW_POINTS:
            style.setdefault("marker", "o")  # a line of one point cannot be seen
        axes.plot(*zip(*points, strict=True), label=label, **style)
