"""A first run with no option that concerns learning, on many small sets, beside what people would use instead.

    python benchmarks/first_run.py --runs runs/first_run --glue-dir GLUE --goemotions-dir DIR --wnut-dir DIR
    python benchmarks/first_run.py ... --only tickets/qvtune,rte-500      # these methods and sets; METHOD, SET or both
    python benchmarks/first_run.py --page                                 # the page alone, from the results

The sets are those of first_run_sets.py, each with three seeds; a seed draws the training examples and is the seed of
whatever trains on them. "qvtune" is `qvtune train --model pkg:minilm --data train.csv --out FOLDER`, then
`qvtune predict` of test.csv. The rivals are in first_run_rivals.py and first_run_trained.py.

Every cell, a method on a set with a seed, is written into docs/benchmarks/first_run.json as soon as it is there, and is
not computed again; the same command goes on where it was interrupted, and several may run side by side. Cells of qvtune
also carry the commit that last changed src/qvtune, or the name that --label gives, and belong to that version alone.
What trains runs in a process of its own. Where a source's folder is not given, its sets are left out.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import first_run_rivals as rivals
import first_run_trained as trained
import numpy as np
from first_run_rivals import Problem, labels_of, measure
from first_run_sets import SETS, SmallSet, add_source_options, read_csv, sources_of, write_set
from first_run_store import Cell, Results, source_version

SEEDS = (0, 1, 2)
MINILM, SMOLLM2 = "pkg:minilm", "pkg:smollm2"
QVTUNE = "qvtune"
# Sets on which a decoder is tried too; it takes its time.
DECODER_SETS = ("sst2-500", "tickets")


@dataclass(frozen=True)
class Method:
    """A way to predict: `solve` a problem here, or, where it is None, `qvtune` on the command line.

    `few` says that it is for sets with few labels alone, and `apart` that it has a process of its own.
    """

    name: str
    model: str = MINILM
    solve: Any = None
    few: bool = False
    apart: bool = False

    def suits(self, small: SmallSet) -> bool:
        """Whether the method is one for this set."""
        if self.model == SMOLLM2 and small.name not in DECODER_SETS:
            return False
        return small.each is not None if self.few else True


METHODS = {
    method.name: method
    for method in (
        Method("majority", solve=rivals.majority),
        Method("tfidf", solve=rivals.tfidf),
        *(
            Method(f"probe-{pooling}", solve=partial(rivals.probe, pooling=pooling))
            for pooling in ("pooler", "first", "mean")
        ),
        Method("setfit", solve=trained.setfit, few=True, apart=True),
        *(Method(f"peft-{epochs}", solve=partial(trained.peft, epochs=epochs), apart=True) for epochs in (3, 20)),
        Method(QVTUNE, apart=True),
        *(
            Method(f"probe-{pooling}@smollm2", SMOLLM2, partial(rivals.probe, pooling=pooling))
            for pooling in ("last", "mean")
        ),
        Method("peft-3@smollm2", SMOLLM2, partial(trained.peft, epochs=3), apart=True),
        Method(f"{QVTUNE}@smollm2", SMOLLM2, apart=True),
    )
}


def problem_of(cell: Cell, args: argparse.Namespace) -> tuple[Problem, Path]:
    """Return what a cell is about, and the folder with its two files, which are written if they are not there."""
    small = SETS[cell.set]
    folder = args.runs / "sets" / cell.set / str(cell.seed)
    if not (folder / "test.csv").is_file():
        write_set(small, cell.seed, folder, sources_of(args))
    train, test = read_csv(folder / "train.csv"), read_csv(folder / "test.csv")
    model = METHODS[cell.method].model
    return Problem(
        train, test, small.is_regression, cell.seed, model, args.runs / "features" / small.source.name
    ), folder


def compute(cell: Cell, args: argparse.Namespace) -> dict[str, Any]:
    """Return metrics on the test set, seconds of the processor and notes of a cell."""
    problem, folder = problem_of(cell, args)
    method = METHODS[cell.method]
    labels = labels_of(problem.test, problem.is_regression)
    start = time.process_time()
    if method.solve is None:
        predictions, notes = run_qvtune(cell, problem, folder, args)
        seconds = notes.pop("seconds")
    else:
        answer = method.solve(problem)
        predictions, notes, seconds = answer.predictions, answer.notes, time.process_time() - start + answer.earlier
    found = {name: round(value, 5) for name, value in measure(labels, predictions, problem.is_regression).items()}
    return {**found, "seconds": round(seconds, 2), "notes": notes}


def run_qvtune(
    cell: Cell, problem: Problem, folder: Path, args: argparse.Namespace
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train and predict by the commands, and return the predictions and what the run says of itself."""
    run = args.runs / "runs" / cell.version / f"{cell.set}-{cell.seed}-{cell.method}"
    command = [sys.executable, "-m", "qvtune"]
    words = ["--model", problem.model, "--data", folder / "train.csv", "--seed", cell.seed, "--out", run]
    start = time.perf_counter()
    _, seconds = call([*command, "train", *words, *shlex.split(args.also)])
    elapsed = time.perf_counter() - start
    out = run / "predictions" / "test.jsonl"
    call([*command, "predict", "--run", run, "--data", folder / "test.csv", "--out", out, "--overwrite"])
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    kept = ("head_start", "warnings", "steps", "epochs", "metrics", "checkpoint", "train_samples_per_second")
    notes = {name: result[name] for name in kept if name in result}
    notes |= {"seconds": seconds, "elapsed_seconds": elapsed, "training_seconds": result["seconds"]}
    return np.array([row["score"] if problem.is_regression else row["label"] for row in rows]), notes


def call(words: list[Any]) -> tuple[str, float]:
    """Run a command and return what it printed and its seconds of the processor; where it fails, show its errors."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(list(map(str, words)), stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)  # the times of this child alone
        process.returncode = os.waitstatus_to_exitcode(status)
        printed, said = ((file.seek(0), file.read())[1] for file in (out, errors))
    if process.returncode:
        raise RuntimeError(f"{shlex.join(map(str, words))} ended with code {process.returncode}:\n{said[-3000:]}")
    return printed, usage.ru_utime + usage.ru_stime


def finish(cell: Cell, args: argparse.Namespace, results: Results) -> None:
    """Compute a cell, in a process of its own where its method wants one, and keep what it gave."""
    if METHODS[cell.method].apart and METHODS[cell.method].solve is not None:
        words = [sys.executable, __file__, *sys.argv[1:], "--one", f"{cell.set}/{cell.method}/{cell.seed}"]
        found = json.loads(call(words)[0].strip().splitlines()[-1])
    else:
        found = compute(cell, args)
    results.add(cell, found)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items() if name not in ("notes", "seconds"))
    print(f"{cell.set} {cell.method} seed {cell.seed}: {shown}; {found['seconds']:.1f} s", file=sys.stderr, flush=True)


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """List the cells that are wanted: by seed, then method by method, the costly ones last."""
    sources = sources_of(args)
    for seed in args.seeds:
        for method in METHODS.values():
            version = args.label or source_version() if method.solve is None else ""
            for small in SETS.values():
                if method.suits(small) and small.source.is_there(sources) and is_wanted(small, method, args.only):
                    yield Cell(small.name, method.name, seed, version)


def is_wanted(small: SmallSet, method: Method, only: str) -> bool:
    """Whether --only names the set, the method, or both as SET/METHOD; SET may be "whole" or "few"."""
    kinds = {small.name, "few" if small.each else "whole", small.half}
    for words in filter(None, only.split(",")):
        first, _, second = words.partition("/")
        if (first in kinds and second in ("", method.name)) or (not second and first == method.name):
            return True
    return not only


def parse_arguments() -> argparse.Namespace:
    """Return the command's words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_source_options(parser)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/first_run"), metavar="DIR", help="Sets and run folders."
    )
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/first_run"), metavar="FILE")
    parser.add_argument("--only", default="", metavar="LIST", help="SET, METHOD or SET/METHOD, whole or few, a half.")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), metavar="NUMBERS")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="Cells at the same time.")
    parser.add_argument("--also", default="", metavar="WORDS", help="More options of qvtune train, to try them.")
    parser.add_argument(
        "--label", default="", metavar="NAME", help="Version of qvtune's cells, in place of the commit."
    )
    parser.add_argument("--page", action="store_true", help="Write the page and compute nothing.")
    parser.add_argument("--one", metavar="SET/METHOD/SEED", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.seeds = [int(seed) for seed in args.seeds.split(",")]
    known = {*SETS, *METHODS, "whole", "few", "development", "confirmation"}
    if unknown := [word for word in args.only.replace("/", ",").split(",") if word and word not in known]:
        parser.error(f"--only: unknown {unknown[0]}. Sets: {', '.join(SETS)}. Methods: {', '.join(METHODS)}.")
    if args.also and not args.label:
        parser.error("--also needs --label: its cells are of another version than the commit.")
    return args


def main() -> None:
    """Compute the cells that are missing, and write the page."""
    args = parse_arguments()
    from first_run_page import write_page

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if args.one:
        name, method, seed = args.one.split("/")
        print(json.dumps(compute(Cell(name, method, int(seed)), args)))
        return
    results = Results(args.out.with_suffix(".json"), args.runs)
    if not args.page:
        missing = [cell for cell in cells(args) if not results.has(cell)]
        print(f"{len(missing)} cells to compute.", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(args.jobs) as pool:
            for _ in pool.map(partial(finish, args=args, results=results), missing):
                pass
    write_page(args.out, results, args.label)


if __name__ == "__main__":
    main()
