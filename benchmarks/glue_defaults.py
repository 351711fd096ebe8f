"""Five GLUE tasks by `qvtune train` with no option that concerns learning, beside the evidence's runs.

    python benchmarks/glue_defaults.py --glue-dir GLUE --runs runs/glue --out docs/benchmarks/glue_defaults --jobs 2

Every run is `qvtune train --model pkg:minilm --data glue/TASK --glue-dir GLUE --seed SEED --out RUNS/TASK-SEED`, with
10,000 training examples at most, as the evidence has, measured on the development set, which also chooses the
checkpoint. Beside it stand the runs of docs/evidence/runs.csv: a head that starts at random with a rate of its own, one
to three epochs, the last weights. The same command goes on where it was interrupted; jobs side by side have a thread
each, and their seconds are those of a run that shares the machine.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from results import write_results

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "docs/evidence/runs.csv"
TASKS = ("rte", "mrpc", "cola", "sst2", "stsb")
RATIOS = ("1.0", "4.0")
MOST_EXAMPLES = 10_000


def train(task: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train unless the run has finished, and return its result."""
    out = args.runs / f"{task}-{seed}"
    if not (out / "result.json").is_file():
        words = ["--model", "pkg:minilm", "--data", f"glue/{task}", "--glue-dir", args.glue_dir, "--seed", seed]
        words += ["--max-train-samples", MOST_EXAMPLES]
        one = {"OMP_NUM_THREADS": "1"} if args.jobs > 1 else {}
        done = subprocess.run(
            [sys.executable, "-m", "qvtune", "train", *map(str, [*words, "--out", out])],
            env=os.environ | one,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{task}, seed {seed}, ended with code {done.returncode}:\n{done.stderr[-3000:]}")
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    print(f"{task} seed {seed}: {result['metrics'][result['main_metric']]:.4f}", file=sys.stderr, flush=True)
    return result


def earlier(task: str) -> dict[str, list[float]]:
    """Return the metrics of the evidence's runs of query and value on a task, by their λ."""
    with EVIDENCE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == task and row["roles"] == "qv"]
    return {ratio: [float(row["metric"]) for row in rows if row["lr_ratio"] == ratio] for ratio in RATIOS}


def spread(values: list[float]) -> str:
    """Return mean ± standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return the means as a table in Markdown."""
    ratios = [f"evidence, λ = {float(ratio):g}" for ratio in RATIOS]
    lines = [f"| task | metric | defaults | probe alone | {' | '.join(ratios)} | epochs | steps | training seconds |"]
    lines.append("| --- | --- | --- | --- | --- | --- | ---: | ---: | ---: |")
    means = []
    for task, results in found.items():
        metric = results[0]["main_metric"]
        ours = [result["metrics"][metric] for result in results]
        probes = [(result["head_start"]["metrics"] or {}).get(metric) for result in results]
        columns = [ours, *earlier(task).values()]
        means.append([statistics.mean(column) for column in columns])
        probe = spread(probes) if None not in probes else ""
        cells = [task, metric, spread(ours), probe, *map(spread, columns[1:])]
        cells += [f"{results[0]['epochs']:g}", f"{statistics.mean(r['steps'] for r in results):,.0f}"]
        cells.append(f"{statistics.mean(r['seconds'] for r in results):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    ours, *others = (f"{statistics.mean(column):.3f}" for column in zip(*means, strict=True))
    return "\n".join([*lines, f"| mean | | {ours} | | {' | '.join(others)} | | | |"])


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--runs", type=Path, default=Path("runs/glue_defaults"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/glue_defaults"), metavar="FILE")
    parser.add_argument("--tasks", default=",".join(TASKS), metavar="LIST")
    parser.add_argument("--seeds", default="0,1,2", metavar="LIST")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="Runs at the same time.")
    args = parser.parse_args()
    tasks, seeds = args.tasks.split(","), [int(seed) for seed in args.seeds.split(",")]
    cells = [(task, seed) for seed in seeds for task in tasks]
    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda cell: train(*cell, args), cells))
    found = {task: [r for (name, _), r in zip(cells, results, strict=True) if name == task] for task in tasks}
    kept = ("metrics", "head_start", "epochs", "steps", "seconds", "checkpoint", "warnings")
    numbers = {task: [{name: r[name] for name in kept if name in r} for r in rs] for task, rs in found.items()}
    text = [
        table(found),
        "",
        f"Mean ± standard deviation over seeds {args.seeds}, of pkg:minilm on the development sets, {args.jobs} at a "
        f"time, with {MOST_EXAMPLES:,} training examples at most. The same sets chose the checkpoint, as in every run "
        "on a GLUE task, and the evidence's is the last; *probe alone* is the head as it starts. Beside it, runs "
        "of [the evidence](../evidence.md).",
    ]
    write_results(args.out, "GLUE with defaults", "\n".join(text), {"tasks": numbers})
    print("\n".join(text))


if __name__ == "__main__":
    main()
