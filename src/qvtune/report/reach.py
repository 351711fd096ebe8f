"""Steps and seconds until a given metric is reached, by λ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qvtune.lab.outcome import Outcome
from qvtune.report.bands import MOST_SERIES, TASK
from qvtune.report.chart import Chart, Series
from qvtune.report.labels import (
    LR_RATIO,
    SEED,
    VALUE_LR,
    count,
    describe,
    finished,
    grouped,
    label_text,
    mean_sd,
    value_ratio,
    varied,
)
from qvtune.report.records import read_records


@dataclass(frozen=True)
class Reached:
    """How long the runs of one λ took.

    Attributes:
        ratio: λ.
        steps: mean over the seeds that reached the target; the last step of the longest run where none did.
        seconds: the same in seconds of training.
        seeds: number of runs.
        missed: how many of them did not reach it.
    """

    ratio: float
    steps: float
    seconds: float
    seeds: int
    missed: int


def reach_charts(outcomes: Sequence[Outcome], target: float | None = None) -> list[Chart]:
    """Return steps and seconds to `target` by λ, with a series per combination of the other labels.

    Args:
        outcomes: the runs.
        target: a metric; for every series what its runs with λ = 1 have at their end, on average, when left out.
            A series without such runs is not drawn then.
    """
    names = [name for name in varied(outcomes) if name not in (SEED, VALUE_LR, LR_RATIO)]
    charts: list[Chart] = []
    for task, runs in grouped(finished(outcomes), [name for name in names if name == TASK]):
        found = []
        for labels, members in grouped(runs, [name for name in names if name != TASK]):
            wanted = metric_at_one(members) if target is None else target
            points = [] if wanted is None else times_to_reach(members, wanted)
            if len(points) > 1 and wanted is not None:
                found.append((describe(labels) or "all runs", wanted, points))
        charts += _charts(", ".join(map(str, task.values())), found, target) if found else []
    return charts


def metric_at_one(runs: Sequence[Outcome]) -> float | None:
    """Return the mean last metric of the runs with λ = 1, or None without any."""
    last = [curve[-1][1] for run in runs if _is_one(value_ratio(run)) and (curve := _curve(run))]
    return mean_sd(last)[0] if last else None


def times_to_reach(runs: Sequence[Outcome], target: float) -> list[Reached]:
    """Return for every λ how long its runs took to a metric of at least `target`, rising by λ."""
    by_ratio: dict[float, list[Outcome]] = {}
    for run in runs:
        ratio = value_ratio(run)
        if ratio is not None and _curve(run):
            # 2e-4 / 1e-4 and 4e-4 / 2e-4 differ in the last digit.
            by_ratio.setdefault(float(f"{ratio:.6g}"), []).append(run)
    return [_reached(ratio, by_ratio[ratio], target) for ratio in sorted(by_ratio)]


def _reached(ratio: float, runs: list[Outcome], target: float) -> Reached:
    curves = [_curve(run) for run in runs]
    times = [time for curve in curves if (time := next((p for p in curve if p[1] >= target), None))]
    missed = len(runs) - len(times)
    if not times:
        times = [max(curve[-1] for curve in curves)]
    return Reached(ratio, mean_sd([t[0] for t in times])[0], mean_sd([t[2] for t in times])[0], len(runs), missed)


def _curve(run: Outcome) -> list[tuple[float, float, float]]:
    """Return step, metric and seconds of every evaluation."""
    metric = run.result["main_metric"]
    for key in (f"eval_{metric}", f"eval_tuning_{metric}"):
        curve = [(r["step"], r[key], r.get("seconds", math.nan)) for r in read_records(run.folder) if key in r]
        if curve:
            return curve
    return []


def _is_one(ratio: float | None) -> bool:
    return ratio is not None and math.isclose(ratio, 1, rel_tol=1e-6)


def _charts(task: str, found: list[tuple[str, float, list[Reached]]], target: float | None) -> list[Chart]:
    shown = found[:MOST_SERIES]
    aim = "what λ = 1 has at its end" if target is None else f"{target:g}"
    caption = f"Until the metric is at least {aim}; mean over seeds, measured at evaluations."
    caption += " A cross stands at the last step of a λ for which one or more seeds did not reach it."
    if len(found) > MOST_SERIES:
        caption += f" {count(len(found) - MOST_SERIES, 'combination')} left out."
    ratios = sorted({point.ratio for _, _, points in shown for point in points})
    charts = []
    for unit in ("steps", "seconds"):
        series = [_series(name, wanted, points, unit) for name, wanted, points in shown]
        title = f"{unit} to the metric of λ = 1" if target is None else f"{unit} to {target:g}"
        title += f", {task}" if task else ""
        charts.append(Chart(title, "λ", unit, series, log_x=True, x_ticks=ratios, caption=caption))
    return charts


def _series(name: str, wanted: float, points: list[Reached], unit: str) -> Series:
    times: list[float] = [getattr(point, unit) for point in points]
    return Series(
        f"{name} (to {wanted:.3f})",
        [point.ratio for point in points],
        times,
        hollow=[point.missed > 0 for point in points],
        hover=[f"{name}\n{_words(point, wanted)}" for point in points],
    )


def _words(point: Reached, wanted: float) -> str:
    start = f"λ {label_text(point.ratio)}, to {wanted:.4f}: "
    if point.missed == point.seeds:
        return start + f"not reached within {point.steps:g} steps, {point.seconds:.1f} s"
    text = start + f"{point.steps:.4g} steps, {point.seconds:.1f} s ({count(point.seeds, 'seed')})"
    return text + (f"\nnot reached by {point.missed} of {point.seeds}" if point.missed else "")


def not_drawn(outcomes: Sequence[Outcome]) -> str | None:
    """Return why there is no such picture although λ varies, or None where it does not."""
    ratios: dict[Any, None] = dict.fromkeys(value_ratio(run) for run in finished(outcomes))
    if len(ratios) < 2 or any(_is_one(ratio) for ratio in ratios):
        return None
    return "No run has λ = 1, so there is no metric to reach. Give one: qvtune report DIR --target METRIC."
