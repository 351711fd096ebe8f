"""The curves of a run: loss, metric, the rate of every group, and how far each role has moved."""

import statistics
from dataclasses import replace
from typing import Any

import numpy as np

from qvtune.rates import HEAD
from qvtune.report.chart import Chart, Series
from qvtune.training.balance import BLOWN, MOVED, STARVED, USUAL, USUAL_MOVED, WINDOW
from qvtune.training.output_change import QUERY_KEY
from qvtune.training.telemetry import OUTPUT, STEP, UPDATE

RATE = "lr/"
# The measurements by role, in the order of the charts: prefix, title and caption.
ROLES_DO = (
    (
        UPDATE,
        "change of the weights",
        f"How far the weights of each role have moved since the start: ‖W_t - W_0‖ / ‖W_0‖; up to {USUAL_MOVED:g} is "
        f"usual, and above {MOVED:g} is warned of.",
    ),
    (STEP, "change of the weights in a step", "How far one step moved them: ‖W_t - W_{t-1}‖ / ‖W_{t-1}‖."),
    (
        OUTPUT,
        "change of the output in a step",
        "How much that step changed the output f of attention layers, or of the feed-forward, through each role alone, "
        f"‖Δf‖ / ‖f‖: up to {USUAL:g} is usual; above {BLOWN:g} is warned of, and so are {WINDOW} logged steps in a "
        f"row in which one side stays below 1/{1 / STARVED:.0f} of the other.",
    ),
)


def run_charts(records: list[dict[str, Any]], metric: str) -> list[Chart]:
    """Return the charts of a run.

    Args:
        records: lines of `metrics.jsonl`.
        metric: name of the task's main metric.
    """
    validation, tuning = f"eval_{metric}", f"eval_tuning_{metric}"
    word = metric.replace("_", " ")
    charts = [
        Chart("loss", "step", "loss", _losses(records)),
        Chart(word, "step", word, _series(records, {validation: "validation", tuning: "tuning"})),
        Chart("learning rate", "step", "learning rate", _prefixed(records, RATE)),
    ]
    for prefix, title, what in ROLES_DO:
        if series := _prefixed(records, prefix):
            charts.append(Chart(title, "step", "relative change", series, log_y=True, caption=what))
    return charts


def shown_charts(records: list[dict[str, Any]], metric: str) -> list[Chart]:
    """Return the charts of a run in which there is something to see; arguments as for `run_charts`."""
    return [chart for chart in run_charts(records, metric) if chart.series]


def _losses(records: list[dict[str, Any]]) -> list[Series]:
    """Return the losses; training losses are means over windows of at least the usual length.

    A checkpoint holds no partial sum of losses, so the records before and after it cover fewer steps than others.
    """
    series = _series(records, {"loss": "training", "eval_loss": "validation"})
    if not series or series[0].name != "training":
        return series
    training = series[0]
    lengths = np.diff([0, *training.x])
    usual = statistics.mode(lengths.tolist())
    windows: list[list[int]] = [[]]
    for place in range(len(lengths)):
        windows[-1].append(place)
        if lengths[windows[-1]].sum() >= usual:
            windows.append([])
    if not windows[-1]:
        windows.pop()
    elif len(windows) > 1:  # the last steps are fewer than a window
        left = windows.pop()
        windows[-1] += left
    values = np.asarray(training.y)
    means = [float(np.average(values[window], weights=lengths[window])) for window in windows]
    steps = [training.x[window[-1]] for window in windows]
    return [replace(training, x=steps, y=means), *series[1:]]


def _prefixed(records: list[dict[str, Any]], prefix: str) -> list[Series]:
    found = sorted({name for record in records for name in record if name.startswith(prefix)})
    # Roles come first, so that each has one colour in all charts.
    names = sorted(found, key=lambda name: name.removeprefix(prefix).startswith(HEAD))
    words = {name: name.removeprefix(prefix) for name in names}
    return _series(
        records, {name: "query and key" if w == QUERY_KEY else w for name, w in words.items()}, widening=True
    )


def _series(records: list[dict[str, Any]], names: dict[str, str], *, widening: bool = False) -> list[Series]:
    series = []
    for place, (key, name) in enumerate(names.items()):
        points = [(record["step"], record[key]) for record in records if key in record]
        # Equal rates lie on one line; wider lines below show that there are several.
        width = 1.8 + 2 * (len(names) - 1 - place) if widening else 1.8
        if points:
            series.append(Series(name, [step for step, _ in points], [value for _, value in points], width=width))
    return series
