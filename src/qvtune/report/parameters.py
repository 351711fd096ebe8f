"""The metric against the number of trained parameters, and against a single varying label."""

from collections.abc import Sequence
from typing import Any

from qvtune.amounts import count
from qvtune.lab.outcome import Outcome
from qvtune.report.bands import MOST_SERIES, TASK
from qvtune.report.chart import Chart, Series
from qvtune.report.labels import (
    ALL_RUNS,
    RATES,
    SEED,
    SYMBOLS,
    axis_title,
    describe,
    finished,
    grouped,
    is_number,
    mean_sd,
    mean_text,
    varied,
)

# The most names in a legend of methods and ranks.
MOST_POINTS = 18


def parameter_charts(outcomes: Sequence[Outcome]) -> list[Chart]:
    """Return the metric against adapter parameters, per task; none if all runs train equally many.

    A point is a combination of the labels other than rates and seed, at its rates with the best mean.
    """
    names = [name for name in varied(outcomes) if name not in (SEED, TASK)]
    charts = []
    for task, runs in grouped(finished(outcomes), [name for name in varied(outcomes) if name == TASK]):
        points = [
            (labels, max(grouped(members, names), key=lambda group: mean_sd(metrics(group[1]))[0]))
            for labels, members in grouped(runs, [name for name in names if name not in RATES])
        ]
        points = [(labels, best) for labels, best in points if adapter_parameters(best[1][0])]
        if len({adapter_parameters(best[1][0]) for _, best in points}) > 1:
            charts.append(_chart(task, runs, points))
    return charts


def adapter_parameters(run: Outcome) -> int:
    """Return how many parameters a run trains besides the head."""
    counts = run.result.get("trainable_parameters", {})
    return counts.get("total", 0) - counts.get("head", 0)


def metrics(runs: Sequence[Outcome]) -> list[float]:
    """Return the metrics of runs that have one."""
    return [run.metric for run in runs if run.metric is not None]


def _chart(task: dict[str, Any], runs: list[Outcome], points: list[Any]) -> Chart:
    word = runs[0].result["main_metric"].replace("_", " ")
    fewest = sorted(points, key=lambda point: adapter_parameters(point[1][1][0]))[:MOST_POINTS]
    series = []
    # Ordered by labels, so that a method has the same colour in every picture.
    for labels, (at, members) in [point for point in points if point in fewest]:
        values = metrics(members)
        mean, sd = mean_sd(values)
        amount = adapter_parameters(members[0])
        hover = f"{describe(at)}\n{amount:,} adapter parameters\n{word} {mean_text(values)}"
        spread = [] if sd is None else [mean - sd], [] if sd is None else [mean + sd]
        series.append(Series(describe(labels), [float(amount)], [mean], *spread, hover=[hover], line=False))
    caption = "Mean over seeds, bars of one standard deviation. Parameters without the head's; each point at its best "
    caption += "rates among the runs."
    if len(points) > MOST_POINTS:
        caption += f" {count(len(points) - MOST_POINTS, 'combination')} left out, those that train most."
    title = ", ".join([f"{word} by trained parameters", *map(str, task.values())])
    ticks = sorted({x for point in series for x in point.x})
    return Chart(title, "adapter parameters", word, series, log_x=True, x_ticks=ticks, caption=caption)


def label_charts(outcomes: Sequence[Outcome]) -> list[Chart]:
    """Return the metric by the only varying numeric label, with a series per other labels; none if several vary."""
    labels = varied(outcomes)
    numeric = [n for n, values in labels.items() if n != SEED and sum(map(is_number, values)) > 1]
    if len(numeric) != 1:
        return []
    name = numeric[0]
    runs = [run for run in finished(outcomes) if is_number(run.labels.get(name))]
    charts = []
    for task, members in grouped(runs, [n for n in labels if n == TASK]):
        groups = grouped(members, [n for n in labels if n not in (name, SEED, TASK)])
        series = [_line(describe(other) or ALL_RUNS, name, group) for other, group in groups[:MOST_SERIES]]
        ticks = sorted({x for line in series for x in line.x})
        log = ticks[0] > 0 and (name in RATES or ticks[-1] / ticks[0] > 10)
        word = members[0].result["main_metric"].replace("_", " ")
        caption = "Mean over seeds; the band is one standard deviation to either side."
        if len(groups) > MOST_SERIES:
            caption += f" {count(len(groups) - MOST_SERIES, 'combination')} left out."
        title = ", ".join([f"{word} by {SYMBOLS.get(name, name.replace('_', ' '))}", *map(str, task.values())])
        charts.append(Chart(title, axis_title(name), word, series, log_x=log, x_ticks=ticks, caption=caption))
    return charts


def _line(name: str, label: str, runs: list[Outcome]) -> Series:
    points = sorted(grouped(runs, [label]), key=lambda group: group[0][label])
    spread = [mean_sd(metrics(members)) for _, members in points]
    several = any(sd is not None for _, sd in spread)
    return Series(
        name,
        [float(labels[label]) for labels, _ in points],
        [mean for mean, _ in spread],
        [mean - (sd or 0.0) for mean, sd in spread] if several else [],
        [mean + (sd or 0.0) for mean, sd in spread] if several else [],
        hover=[f"{describe(labels)}\n{mean_text(metrics(members))}" for labels, members in points],
    )
