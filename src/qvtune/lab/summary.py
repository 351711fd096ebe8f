"""`summarize`: the runs of a comparison as a row per method and task."""

from typing import Any

import numpy as np
import pandas as pd

from qvtune.lab.outcome import DIVERGED, FAILED, FINISHED
from qvtune.lab.statistics import PairedTest, paired_test, spread

AVERAGE = "average"
# The note for the baseline, which is not tested against itself.
BASELINE = "the baseline"

# Means that differ by less than this are the same number, summed in another order.
TIE_DECIMALS = 10


def summarize(results: pd.DataFrame, baseline: str, name: str = "method") -> pd.DataFrame:
    """Return a row per method and task and, if there are several tasks, one per method over all of them.

    Methods and tasks stay in the order of `results`. The columns:

    - `method` (or what `name` says), `task` ("average" over all tasks), `metric`: name of the task's main metric;
    - `mean`, `sd` (n − 1), `n`: over the seeds that have a result. The average is the mean of the tasks' means. Its sd
    and n are taken over the averages of the seeds that have all tasks. It is empty if a task has no result;
    - `place`: 1 for the best mean of the task, 2 for the second best, empty for all others; equal means share a place;
    - `runs`, `failed`, `unlearned`: how many runs there are, how many of them failed or diverged, and how many finished
    but learned nothing;
    - `trained_parameters`, of these `adapter_parameters` and `head_parameters`; `saved_bytes`;
    - `seconds` of training, the mean over seeds; `peak_memory_bytes`, the largest;
    - `pairs`, `difference`, `difference_low`, `difference_high`, `p_t`, `p_wilcoxon`: the method against the baseline
      over the pairs of task and seed that both have, see `qvtune.lab.statistics.PairedTest`;
    - `note`: why there is no test.

    Args:
        results: the table from `results_table`, with the columns `task`, `seed` and `name`. Higher metrics are better.
        baseline: the method that the others are compared with.
        name: the column that names the methods.
    """
    methods, tasks = results[name].unique(), results["task"].unique()
    rows = []
    for method in methods:
        own, other = results[results[name] == method], results[results[name] == baseline]
        for task in tasks:
            rows.append({name: method} | _row(own[own["task"] == task], other[other["task"] == task], task))
        if len(tasks) > 1:
            rows.append({name: method} | _average(own, other, rows[-len(tasks) :]))
        if method == baseline:
            for row in rows[-len(tasks) - (len(tasks) > 1) :]:
                row |= _tested(PairedTest(0, note=BASELINE))
    summary = pd.DataFrame(rows)
    summary.insert(summary.columns.get_loc("n") + 1, "place", _places(summary))
    return summary.astype(dict.fromkeys(("place", *WHOLE), "Int64"))


WHOLE = (
    "n", "runs", "failed", "unlearned", "pairs", "trained_parameters", "adapter_parameters", "head_parameters",
    "saved_bytes", "peak_memory_bytes",
)  # fmt: skip


def _row(own: pd.DataFrame, other: pd.DataFrame, task: str) -> dict[str, Any]:
    finished = own[own["status"] == FINISHED]
    measured = spread([float(value) for value in finished["metric"].dropna()])
    names = finished["metric_name"].dropna()
    return {
        "task": task,
        "metric": names.iloc[0] if len(names) else None,
        "mean": measured.mean,
        "sd": measured.sd,
        "n": measured.n,
        "runs": len(own),
        "failed": int(own["status"].isin((FAILED, DIVERGED)).sum()),
        "unlearned": int(finished["learned"].eq(False).sum()) if "learned" in finished else 0,
        **{column: _first(finished[column]) for column in ("trained_parameters", *PARTS, "saved_bytes")},
        "seconds": _number(finished["seconds"].astype(float).mean()),
        "peak_memory_bytes": _number(finished["peak_memory_bytes"].astype(float).max()),
        **_tested(_compare(own, other)),
    }


PARTS = ("adapter_parameters", "head_parameters")


def _average(own: pd.DataFrame, other: pd.DataFrame, rows: list[dict[str, Any]]) -> dict[str, Any]:
    means = [row["mean"] for row in rows]
    by_seed = own[own["status"] == FINISHED].pivot_table(index="seed", columns="task", values="metric", aggfunc="first")
    complete = by_seed.reindex(columns=[row["task"] for row in rows]).astype(float).dropna().mean(axis=1)
    seeds = spread(list(complete))
    known = [row["peak_memory_bytes"] for row in rows if row["peak_memory_bytes"] is not None]
    sizes = [row["saved_bytes"] for row in rows]
    times = [row["seconds"] for row in rows]
    return {
        "task": AVERAGE,
        "metric": None,
        "mean": None if None in means else float(np.mean(means)),
        "sd": None if None in means else seeds.sd,
        "n": seeds.n,
        "runs": sum(row["runs"] for row in rows),
        "failed": sum(row["failed"] for row in rows),
        "unlearned": sum(row["unlearned"] for row in rows),
        **{column: _shared([row[column] for row in rows]) for column in ("trained_parameters", *PARTS)},
        "saved_bytes": _shared(sizes),
        "seconds": None if None in times else float(np.mean(times)),
        "peak_memory_bytes": max(known, default=None),
        **_tested(_compare(own, other)),
    }


def _compare(own: pd.DataFrame, other: pd.DataFrame) -> PairedTest:
    keys = ["task", "seed"]
    pairs = own[[*keys, "metric"]].merge(other[[*keys, "metric"]], on=keys, suffixes=("", "_baseline")).dropna()
    return paired_test(list(pairs["metric"]), list(pairs["metric_baseline"]))


def _tested(test: PairedTest) -> dict[str, Any]:
    return {
        "pairs": test.pairs,
        "difference": test.difference,
        "difference_low": test.low,
        "difference_high": test.high,
        "p_t": test.p_t,
        "p_wilcoxon": test.p_wilcoxon,
        "note": test.note,
    }


def _places(summary: pd.DataFrame) -> pd.Series:
    ranks = summary["mean"].astype(float).round(TIE_DECIMALS).groupby(summary["task"]).rank("dense", ascending=False)
    return ranks.where(ranks <= 2).astype("Int64")


def _first(values: pd.Series) -> Any:
    known = values.dropna()
    return int(known.iloc[0]) if len(known) else None


def _shared(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
