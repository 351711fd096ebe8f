"""Kernels of a wheel against kernels compiled for this very processor: the same training, by turns.

    python tools/check_wheel.py
    python benchmarks/wheel.py --wheel build/environment/bin/python --glue-dir glue --out docs/benchmarks/wheel

`--wheel` is a Python in which the wheel is installed; this Python has qvtune from its sources, and compiles. Each
trains the same run in each round. The speed is that of the run's steps, from result.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from results import write_results

CASES = {"sst2": 150, "rte": 30}


def train(python: str, task: str, glue_dir: Path) -> dict[str, Any]:
    """Train in a process of that Python, and return what is compared."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [
            python, "-m", "qvtune", "train", "--model", "pkg:minilm", "--data", f"glue/{task}", "--glue-dir", glue_dir,
            "--max-steps", CASES[task], "--max-eval-samples", 64, "--max-train-samples", 2400, "--no-log-updates",
            "--out", out,
        ]  # fmt: skip
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([str(word) for word in words], check=True, capture_output=True, env=variables, cwd=folder)
        result, environment = (
            json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in ("result", "environment")
        )
    return {
        "speed": result["train_samples_per_second"], "loss": result["train_loss"],
        "shipped": environment["kernels"]["shipped"],
    }  # fmt: skip


def main() -> None:
    """Train by turns, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", required=True, metavar="PYTHON")
    parser.add_argument("--glue-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/wheel"))
    args = parser.parse_args()
    pythons = {"compiled here": sys.executable, "of the wheel": str(Path(args.wheel).absolute())}
    lines = ["| case | compiled here | of the wheel | ratio | loss |", "| --- | --- | --- | --- | --- |"]
    numbers: dict[str, Any] = {}
    for task in CASES:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
        for number in range(args.rounds):
            for name in list(pythons)[:: 1 if number % 2 == 0 else -1]:
                found[name].append(train(pythons[name], task, args.glue_dir.absolute()))
                print(task, name, found[name][-1], flush=True)
        compiled, shipped = (statistics.median(run["speed"] for run in runs) for runs in found.values())
        losses = " and ".join(sorted({f"{run['loss']:.6f}" for runs in found.values() for run in runs}))
        lines.append(
            f"| {task} | {compiled:.0f} examples/s | {shipped:.0f} examples/s | {shipped / compiled:.3f} | {losses} |"
        )
        numbers[task] = found
    variants = sorted({str(run["shipped"]) for found in numbers.values() for run in found["of the wheel"]})
    text = "\n".join(
        [*lines, "", f"The wheel's kernels were those for {', '.join(variants)}; {args.rounds} rounds each, medians."]
    )
    write_results(args.out, "Kernels of a wheel, and kernels compiled where they run", text, {"runs": numbers})
    print(text)


if __name__ == "__main__":
    main()
