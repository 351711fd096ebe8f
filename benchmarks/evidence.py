"""Which of the paper's claims hold on MiniLM and GLUE: roles, ratios of rates, and a heat map, each over seeds.

    python benchmarks/evidence.py --glue-dir GLUE --store runs/evidence --out docs/evidence   # an hour on two cores
    python benchmarks/evidence.py --out docs/evidence                                         # the page alone

The first form trains what the store does not hold and writes the raw results beside the page, as CSV; both make the page
and the pictures from those.
"""

import argparse
from pathlib import Path
from typing import Any

from qvtune.lab.execution import Execution
from qvtune.lab.sweep import sweep
from qvtune.options import parse_options

SEEDS = [0, 1, 2]
ROLES = ["k", "v", "qv", "qkv"]
RATIOS = [1, 2, 4, 8]
RATES = [1e-4, 4e-4, 1.6e-3, 6.4e-3]

# No run is chosen by what it is measured on: the rates are given, and the last weights count.
SHARED = {"model": "pkg:minilm", "lr": 4e-4, "head_lr": 5e-3, "rank": 8, "batch_size": 16, "keep_best": False}

# Ten evaluations each.
TASKS: dict[str, dict[str, Any]] = {
    "cola": {"epochs": 3, "eval_steps": 160},
    "mrpc": {"epochs": 3, "eval_steps": 70},
    "rte": {"epochs": 3, "eval_steps": 47},
    "sst2": {"epochs": 1, "eval_steps": 63, "max_train_samples": 10_000},
    "stsb": {"epochs": 2, "eval_steps": 72},
}
HEATMAP_TASK = "stsb"


def roles_and_ratios(task: str) -> list[dict[str, Any]]:
    """List the runs of a task: every set of roles at one rate, and every ratio for query and value."""
    points = [{"roles": roles, "lr_ratio": 1} for roles in ROLES]
    points += [{"roles": "qv", "lr_ratio": ratio} for ratio in RATIOS if ratio != 1]
    return [{"task": task} | TASKS[task] | point | {"seed": seed} for point in points for seed in SEEDS]


def train(glue_dir: Path, store: Path, execution: Execution, tasks: list[str]) -> None:
    """Train what the stores do not hold."""
    options = SHARED | {"glue_dir": str(glue_dir)}
    runs = [run for task in tasks for run in roles_and_ratios(task)]
    sweep(options, runs, out=store / "roles", execution=execution)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--glue-dir", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--workers", type=int)
    parser.add_argument("--tasks", default=",".join(TASKS))
    arguments = parser.parse_args()
    given = {} if arguments.workers is None else {"workers": arguments.workers}
    train(arguments.glue_dir, arguments.store, parse_options(Execution, given), arguments.tasks.split(","))
