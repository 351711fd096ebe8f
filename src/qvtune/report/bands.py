"""Learning curves of many runs: the mean over seeds, with a band from the lowest seed to the highest."""

from collections.abc import Sequence
from typing import Any

from qvtune.amounts import count
from qvtune.lab.outcome import Outcome
from qvtune.report.chart import Chart, Series
from qvtune.report.labels import ALL_RUNS, SEED, describe, finished, grouped, mean_sd, varied
from qvtune.training.records import read_records

# More lines than this cannot be distinguished.
MOST_SERIES = 8
TASK = "task"


def band_charts(outcomes: Sequence[Outcome]) -> list[Chart]:
    """Return metric and training loss over the steps, per task, with a series per combination of the other labels."""
    names = [name for name in varied(outcomes) if name != SEED]
    tasks = grouped(finished(outcomes), [name for name in names if name == TASK])
    return [chart for task, runs in tasks for chart in _charts(task, runs, [name for name in names if name != TASK])]


def _charts(task: dict[str, Any], runs: list[Outcome], names: list[str]) -> list[Chart]:
    groups = grouped(runs, names)
    best = sorted((mean_sd([run.metric or 0.0 for run in members])[0] for _, members in groups), reverse=True)
    # Ordered by labels, so that a method has the same colour in every picture.
    limit = best[min(MOST_SERIES, len(best)) - 1]
    shown = [group for group in groups if mean_sd([run.metric or 0.0 for run in group[1]])[0] >= limit][:MOST_SERIES]
    left_out = len(groups) - MOST_SERIES
    caption = "Mean over seeds; the band reaches from the lowest seed to the highest."
    if left_out > 0:
        rest = count(left_out, "combination")
        caption += f" The {MOST_SERIES} with the best final metric are drawn, {rest} left out."
    metric = runs[0].result["main_metric"]
    word = metric.replace("_", " ")
    charts = []
    for keys, y_title in (((f"eval_{metric}", f"eval_tuning_{metric}"), word), (("loss",), "training loss")):
        series = [band for labels, members in shown if (band := band_over_seeds(describe(labels), members, keys))]
        if series:
            title = ", ".join([y_title, *map(str, task.values())])
            charts.append(Chart(title, "step", y_title, series, caption=caption))
    return charts


def band_over_seeds(name: str, runs: Sequence[Outcome], keys: Sequence[str]) -> Series | None:
    """Return mean, lowest and highest value of the first logged one of `keys`, at every step where a run has it."""
    logged = [read_records(run.folder) for run in runs]
    key = next((key for key in keys if any(key in record for records in logged for record in records)), None)
    if key is None:
        return None
    by_step: dict[int, list[float]] = {}
    for records in logged:
        for record in records:
            if key in record:
                by_step.setdefault(record["step"], []).append(record[key])
    steps = sorted(by_step)
    several = any(len(values) > 1 for values in by_step.values())
    return Series(
        name or ALL_RUNS,
        [float(step) for step in steps],
        [mean_sd(by_step[step])[0] for step in steps],
        [min(by_step[step]) for step in steps] if several else [],
        [max(by_step[step]) for step in steps] if several else [],
    )
