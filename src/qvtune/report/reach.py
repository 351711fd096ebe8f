"""Steps and seconds until a given metric is reached, by λ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qvtune.amounts import count
from qvtune.lab.outcome import Outcome
from qvtune.report.bands import MOST_SERIES, TASK
from qvtune.report.chart import Chart, Series
from qvtune.report.labels import (
    ALL_RUNS,
    LR_RATIO,
    SEED,
    VALUE_LR,
    describe,
    finished,
    grouped,
    label_text,
    mean_sd,
    value_ratio,
    varied,
)
from qvtune.training.records import read_records


@dataclass(frozen=True)
class Reached:
    """How long the runs with one λ took.

    Attributes:
        ratio: λ.
        steps: steps until the mean over seeds is at least the target; the last step if it never is.
        seconds: the same time in seconds of training.
        seeds: number of runs.
        missed: whether the target is never reached.
    """

    ratio: float
    steps: float
    seconds: float
    seeds: int
    missed: bool


def reach_charts(outcomes: Sequence[Outcome], target: float | None = None) -> list[Chart]:
    """Return steps and seconds to `target` by λ, with a series per combination of the other labels.

    Args:
        outcomes: the runs.
        target: a metric. When None, for every series the mean final metric of its runs with λ = 1. Then a series is not
            drawn if it has no such runs, or if that metric is noise, see `is_noise`. Runs that learned nothing reach no
            target.
    """
    names = [name for name in varied(outcomes) if name not in (SEED, VALUE_LR, LR_RATIO)]
    charts: list[Chart] = []
    for task, runs in grouped(finished(outcomes), [name for name in names if name == TASK]):
        found = []
        for labels, members in grouped(runs, [name for name in names if name != TASK]):
            wanted = (None if is_noise(members) else metric_at_one(members)) if target is None else target
            points = [] if wanted is None else times_to_reach(members, wanted)
            if len(points) > 1 and wanted is not None:
                found.append((describe(labels) or ALL_RUNS, wanted, points))
        charts += _charts(", ".join(map(str, task.values())), found, target) if found else []
    return charts


def metric_at_one(runs: Sequence[Outcome]) -> float | None:
    """Return the mean of the last metric of the runs with λ = 1, or None without such runs."""
    curve = mean_curve([run for run in runs if _is_one(value_ratio(run))])
    return curve[-1][1] if curve else None


def is_noise(runs: Sequence[Outcome]) -> bool:
    """Whether the runs with λ = 1 reach their metric without learning.

    That is so if all of them learned nothing, or if their mean has risen from the first evaluation to the last by less
    than one standard error of a share over all their evaluation examples.
    """
    ones = [run for run in runs if _is_one(value_ratio(run))]
    if ones and all(run.learned is False for run in ones):
        return True
    curve = mean_curve(ones)
    results = [run.result for run in ones]
    examples = sum(
        result["evaluation_examples"][split] for result in results for split in result.get("reported_on", ())
    )
    if not curve or not examples:
        return False
    end = min(max(curve[-1][1], 0.0), 1.0)
    # The standard error of a share is at most 0.5 / sqrt(n); here it counts as at least one example.
    error = max(math.sqrt(end * (1 - end)), 1 / math.sqrt(examples)) / math.sqrt(examples)
    return curve[-1][1] - curve[0][1] < error


def times_to_reach(runs: Sequence[Outcome], target: float) -> list[Reached]:
    """Return, sorted by λ, how long the runs of each λ took to reach a metric of at least `target`."""
    by_ratio: dict[float, list[Outcome]] = {}
    for run in runs:
        ratio = value_ratio(run)
        if ratio is not None:
            # 2e-4 / 1e-4 and 4e-4 / 2e-4 differ in the last digit.
            by_ratio.setdefault(float(f"{ratio:.6g}"), []).append(run)
    return [_reached(ratio, by_ratio[ratio], target) for ratio in sorted(by_ratio) if mean_curve(by_ratio[ratio])]


def _reached(ratio: float, runs: list[Outcome], target: float) -> Reached:
    curve = mean_curve(runs)
    learned = any(run.learned is not False for run in runs)
    first = next((point for point in curve if learned and point[1] >= target), None)
    steps, _, seconds = first or curve[-1]
    return Reached(ratio, steps, seconds, len(runs), first is None)


def mean_curve(runs: Sequence[Outcome]) -> list[tuple[float, float, float]]:
    """Return step, mean metric and mean seconds of every evaluation that all the runs have."""
    curves = [{step: (metric, seconds) for step, metric, seconds in _curve(run)} for run in runs]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return [(s, mean_sd([c[s][0] for c in curves])[0], mean_sd([c[s][1] for c in curves])[0]) for s in steps]


def _curve(run: Outcome) -> list[tuple[float, float, float]]:
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
    caption = f"Until the mean metric over seeds is at least {aim}, seen at evaluations."
    caption += " A cross marks a λ that never reached it, at its last step."
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
        crossed=[point.missed for point in points],
        hover=[f"{name}\n{_words(point, wanted)}" for point in points],
    )


def _words(point: Reached, wanted: float) -> str:
    start = f"λ {label_text(point.ratio)}, to {wanted:.4f}: "
    if point.missed:
        start += "not reached within "
    return start + f"{point.steps:g} steps, {point.seconds:.1f} s ({count(point.seeds, 'seed')})"


def not_drawn(outcomes: Sequence[Outcome]) -> str | None:
    """Return why there is no such picture although λ varies, or None if there is one or λ does not vary."""
    if {VALUE_LR, LR_RATIO}.isdisjoint(varied(outcomes)) or reach_charts(outcomes):
        return None
    if not any(_is_one(value_ratio(run)) for run in finished(outcomes)):
        return "No run has λ = 1, so there is no metric to reach. Give one: qvtune report DIR --target METRIC."
    return (
        "How long each λ takes is not drawn: the runs with λ = 1 have learned nothing, or their metric did not rise by "
        "more than noise between evaluations. Give a metric to reach: qvtune report DIR --target METRIC."
    )
