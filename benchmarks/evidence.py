"""Which of the paper's claims hold on MiniLM and GLUE: roles, ratios of rates, and a heat map, each over seeds.

    python benchmarks/evidence.py --glue-dir GLUE --store runs/evidence   # some two hours on two cores
    python benchmarks/evidence.py ... --only rte,heatmap                  # these; the rows of other tasks stay
    python benchmarks/evidence.py                                         # the page alone, from the raw results

The first two forms train what the store does not hold and write the raw results, runs.csv, curves.csv and heatmap.csv,
into docs/evidence. All make docs/evidence.md and its pictures from those.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from evidence_page import write_page

from qvtune.lab.execution import Execution
from qvtune.lab.outcome import Outcome, results_table
from qvtune.lab.store import Store
from qvtune.lab.sweep import sweep
from qvtune.options import parse_options

SEEDS = [0, 1, 2]
ROLES = ["k", "v", "qv", "qkv"]
RATIOS = [1, 2, 4, 8]
RATES = [1e-4, 4e-4, 1.6e-3, 6.4e-3]

# No run is chosen by what it is measured on: the rates are given, and the last weights count.
SHARED = {
    "model": "pkg:minilm",
    "head_lr": 5e-3,
    "rank": 8,
    "batch_size": 16,
    "keep_best": False,
    "head_start": "random",
}
LR = 4e-4

# Ten evaluations each.
TASKS: dict[str, dict[str, Any]] = {
    "cola": {"epochs": 3, "eval_steps": 160},
    "mrpc": {"epochs": 3, "eval_steps": 70},
    "rte": {"epochs": 3, "eval_steps": 47},
    "sst2": {"epochs": 1, "eval_steps": 63, "max_train_samples": 10_000},
    "stsb": {"epochs": 2, "eval_steps": 72},
}
HEATMAP = {"task": "stsb", "epochs": 1, "max_train_samples": 3_000}
LABELS = ["task", "roles", "lr_ratio", "seed"]
# What the page says about the runs.
SETTINGS = SHARED | {"lr": LR, "tasks": TASKS, "heatmap": HEATMAP}


def roles_and_ratios(task: str) -> list[dict[str, Any]]:
    """List the runs of a task: every set of roles at one rate, and every ratio for query and value."""
    points = [{"roles": roles, "lr_ratio": 1} for roles in ROLES]
    points += [{"roles": "qv", "lr_ratio": ratio} for ratio in RATIOS if ratio != 1]
    return [{"task": task} | TASKS[task] | point | {"seed": seed} for point in points for seed in SEEDS]


def train(glue_dir: Path, store: Path, only: Sequence[str], execution: Execution, out: Path) -> None:
    """Train what the stores do not hold of the tasks and the heat map that are named, and write their raw results."""
    options = SHARED | {"glue_dir": str(glue_dir)}
    out.mkdir(parents=True, exist_ok=True)
    runs = [run for task in TASKS if task in only for run in roles_and_ratios(task)]
    if runs:
        sweep(options | {"lr": LR}, runs, out=store / "roles", execution=execution)
        outcomes = [outcome for outcome in Store(store / "roles").outcomes() if outcome.labels["task"] in only]
        put_rows(results_table(outcomes), out / "runs.csv")
        put_rows(pd.concat(curve(outcome) for outcome in outcomes), out / "curves.csv")
    if "heatmap" in only:
        rates = {"lr": RATES, "value_lr": RATES, "seed": SEEDS}
        write_csv(
            sweep(options | HEATMAP, rates, out=store / "heatmap", execution=execution).table, out / "heatmap.csv"
        )


def curve(outcome: Outcome) -> pd.DataFrame:
    """Return the metric of every evaluation of a run."""
    name = f"eval_{outcome.result['main_metric']}"
    points = [(record["step"], record[name]) for record in outcome.records() if name in record]
    frame = pd.DataFrame(points, columns=["step", "metric"])
    for place, label in enumerate(LABELS):
        frame.insert(place, label, outcome.labels[label])
    return frame


def put_rows(table: pd.DataFrame, path: Path) -> None:
    """Write a table in place of the rows that the file has for the same tasks."""
    if path.is_file():
        before = pd.read_csv(path)
        table = pd.concat([before[~before["task"].isin(table["task"])], table])
    write_csv(table.sort_values(LABELS, kind="stable", key=in_order), path)


def in_order(column: pd.Series) -> pd.Series:
    """Sort roles as they are listed, and all else by value."""
    return column.map(ROLES.index) if column.name == "roles" else column


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table without columns that have one value alone or differ between machines."""
    dropped = {"run", "samples_per_second", "peak_memory_bytes", "seconds", "reason", "best_step"}
    table.drop(columns=dropped & set(table.columns)).to_csv(path, index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue-dir", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--only", default=",".join([*TASKS, "heatmap"]), metavar="NAMES")
    parser.add_argument("--out", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args()
    if arguments.store is not None:
        if unknown := set(only := arguments.only.split(",")) - {*TASKS, "heatmap"}:
            parser.error(f"--only has {', '.join(sorted(unknown))}; known are {', '.join(TASKS)} and heatmap.")
        given = {} if arguments.workers is None else {"workers": arguments.workers}
        train(arguments.glue_dir, arguments.store, only, parse_options(Execution, given), arguments.out)
    write_page(arguments.out, SETTINGS)
