"""Quality of the fast default, against plain float32: the same configuration trained both ways, seed by seed.

    python benchmarks/quality.py --glue-dir glue --runs runs/quality --out docs/benchmarks/quality

"fast" is `qvtune train` as it is; "plain" is `qvtune train --no-fast --precision fp32`. Both train LoRA on query and
value of MiniLM, and the head. The last checkpoint counts, so nothing is chosen on the validation set, which is
reported; its metrics are measured in float32 whatever the run trained in.

The difference of the means is judged by the unpaired standard error, sqrt(s1²/n + s2²/n). Two runs of one seed begin
with the same weights, but their dropout masks and their order of examples differ, so they need not vary together; the
paired standard error stands beside it for information. Seconds are those of training with the evaluation after every
epoch.

Every run is a folder RUNS/TASK-WAY-SEED, and a process of its own, because a fast run leaves its process with another
memory allocator than it found. The ways take turns. The same command again goes on where it was interrupted.
"""

import argparse
import math
import statistics
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from results import write_results

MODEL = "pkg:minilm"
WAYS: dict[str, dict[str, Any]] = {
    "fast": {"fast": True, "precision": "auto"},
    "plain": {"fast": False, "precision": "fp32"},
}
# What is kept of a run's result beside its main metric, loss and seconds.
KEPT = ("metrics", "train_loss", "steps", "train_examples", "train_samples_per_second", "fingerprint")


@dataclass(frozen=True)
class Case:
    """The hyperparameters of a task; the head trains at `lr` where it has no rate of its own."""

    name: str
    lr: float
    lr_ratio: float
    epochs: float
    head_lr: float | None = None
    batch_size: int = 32
    seeds: int = 5


CASES = (
    Case("mrpc", lr=1e-3, lr_ratio=4, epochs=3, head_lr=1e-2),
    # MiniLM says "acceptable" of every sentence for some hundred steps; small batches and rates take it past that.
    # Of five seeds of "fast" one got past it late, so three more were trained of both ways.
    Case("cola", lr=2e-4, lr_ratio=4, epochs=3, head_lr=5e-3, batch_size=8, seeds=8),
)


@dataclass(frozen=True)
class Run:
    """One training."""

    task: str
    way: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.task}-{self.way}-{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What a finished run came to."""

    run: Run
    metric: str
    value: float
    loss: float
    seconds: float
    result: dict[str, Any]


def list_runs(cases: list[Case]) -> list[Run]:
    """Return all runs in their order: seed by seed, and the way that comes first takes turns."""
    turns = [list(WAYS), list(WAYS)[::-1]]
    most = max(case.seeds for case in cases)
    places = [(seed, case) for seed in range(most) for case in cases if seed < case.seeds]
    return [Run(case.name, way, seed) for seed, case in places for way in turns[seed % 2]]


def configuration(run: Run, case: Case, args: argparse.Namespace) -> Any:
    """Return the options of a run; the two ways of a task and seed differ in `WAYS` alone."""
    from qvtune.training.config import make_config

    rates = {name: value for name, value in asdict(case).items() if name not in ("name", "seeds")}
    return make_config(
        {
            "model": MODEL,
            "data": f"glue/{run.task}",
            "glue_dir": args.glue_dir,
            "max_train_samples": args.samples,
            "keep_best": False,
            "head_start": "random",
            "seed": run.seed,
            "out": args.runs / run.name,
            **rates,
            **WAYS[run.way],
        }
    )


def train_here(config: Any) -> None:
    """Train in this process, or go on with what is there."""
    import datasets
    import transformers
    from rich.console import Console

    from qvtune.errors import QVTuneError
    from qvtune.training.run import run

    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        run(config, Console(quiet=True))
    except QVTuneError as error:
        raise SystemExit(str(error)) from error


def finish(run: Run, config: Any) -> Outcome:
    """Train in a process of its own unless the run has finished, and return what it came to."""
    from qvtune.training.folder import RunFolder

    folder = RunFolder(config.out)
    if not folder.is_finished:
        child = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--one", run.name])
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.wait()  # it was interrupted too, and saves
            raise SystemExit("Interrupted. The same command again goes on from here.") from None
        if code:
            raise SystemExit(f"{run.name} ended with code {code}. The same command again goes on from here.")
    result = folder.read_json(folder.result)
    metric, metrics = result["main_metric"], result["metrics"]
    return Outcome(run, metric, metrics[metric], metrics["loss"], result["seconds"], {k: result[k] for k in KEPT})


def seconds_left(left: list[Run], done: list[Outcome]) -> float:
    """Return how long the other runs take if each takes as long as those of its task and way did, or as any did."""
    total = 0.0
    for run in left:
        alike = [o.seconds for o in done if (o.run.task, o.run.way) == (run.task, run.way)]
        total += statistics.mean(alike or [o.seconds for o in done])
    return total


def compare(fast: list[Outcome], plain: list[Outcome]) -> dict[str, Any]:
    """Compare the two ways of a task; both lists are in the order of their seeds."""
    ways = {}
    for way, outcomes in (("fast", fast), ("plain", plain)):
        ways[way] = {
            "mean": statistics.mean(o.value for o in outcomes),
            "deviation": statistics.stdev(o.value for o in outcomes),
            "loss": statistics.mean(o.loss for o in outcomes),
            "seconds": statistics.mean(o.seconds for o in outcomes),
        }
    difference = ways["fast"]["mean"] - ways["plain"]["mean"]
    error = math.sqrt(sum(way["deviation"] ** 2 / len(fast) for way in ways.values()))
    pairs = [a.value - b.value for a, b in zip(fast, plain, strict=True)]
    return {
        "metric": fast[0].metric,
        "ways": ways,
        "difference": difference,
        "standard_error": error,
        "paired_standard_error": statistics.stdev(pairs) / math.sqrt(len(pairs)),
        "within_one_standard_error": abs(difference) <= error,
    }


def summarize(cases: list[Case], outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the comparison by task."""
    summary = {}
    for case in cases:
        by_way: dict[str, list[Outcome]] = {way: [] for way in WAYS}
        for outcome in sorted(outcomes, key=lambda o: o.run.seed):
            if outcome.run.task == case.name:
                by_way[outcome.run.way].append(outcome)
        summary[case.name] = compare(**by_way)
    return summary


def table(summary: dict[str, Any], cases: list[Case], samples: int | None, precision: str) -> str:
    """Return the summary as a table in Markdown, and what it was measured with."""
    lines = [
        "| task | metric | fast | plain | difference | standard error | within one | paired standard error "
        "| evaluation loss, fast | plain | training seconds, fast | plain |",
        "| --- " * 12 + "|",
    ]
    for name, case in summary.items():
        fast, plain = (case["ways"][way] for way in ("fast", "plain"))
        cells = [name, case["metric"], *(f"{way['mean']:.4f} ± {way['deviation']:.4f}" for way in (fast, plain))]
        cells += [f"{case['difference']:+.4f}", f"{case['standard_error']:.4f}"]
        cells += ["yes" if case["within_one_standard_error"] else "no", f"{case['paired_standard_error']:.4f}"]
        cells += [f"{way['loss']:.4f}" for way in (fast, plain)] + [f"{way['seconds']:.1f}" for way in (fast, plain)]
        lines.append(f"| {' | '.join(cells)} |")
    examples = "all training examples" if samples is None else f"{samples} training examples at most (--samples)"
    lines += [
        "",
        f"Mean ± standard deviation over the seeds of {MODEL} on {examples}, after the last epoch; fast minus "
        f"plain. Fast trains in {precision}, plain in fp32.",
        "",
    ]
    for case in cases:
        head = case.lr if case.head_lr is None else case.head_lr
        lines.append(
            f"- {case.name}: lr {case.lr:g}, lr_ratio {case.lr_ratio:g}, head_lr {head:g}, epochs {case.epochs:g}, "
            f"batch_size {case.batch_size}, {case.seeds} seeds"
        )
    return "\n".join(lines)


def report(cases: list[Case], outcomes: list[Outcome], args: argparse.Namespace) -> None:
    """Print the table, and write it and all numbers."""
    from qvtune.device import choose_device
    from qvtune.fast.precision import resolve_precision

    precision = resolve_precision(WAYS["fast"]["precision"], choose_device())
    summary = summarize(cases, outcomes)
    text = table(summary, cases, args.samples, precision)
    print(text)
    numbers = {
        "model": MODEL,
        "precision": precision,
        "cases": [asdict(case) for case in cases],
        "samples": args.samples,
        "summary": summary,
        "runs": [asdict(outcome) for outcome in outcomes],
    }
    write_results(args.out, "Quality of the fast default", text, numbers)


def parse_arguments() -> tuple[argparse.Namespace, list[Case]]:
    """Return the command's words, and the cases that they name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--glue-dir", type=Path, required=True, metavar="DIR", help="Where GLUE is.")
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="Where the run folders are.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="Write FILE.json and FILE.md.")
    parser.add_argument("--tasks", default=",".join(case.name for case in CASES), metavar="NAMES")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="Runs of each task and way, in place of its own; 2 at least."
    )
    parser.add_argument("--samples", type=int, metavar="N", help="Train on N examples at most, to try the command.")
    parser.add_argument("--one", metavar="TASK-WAY-SEED", help=argparse.SUPPRESS)
    args = parser.parse_args()
    by_name = {case.name: case for case in CASES}
    names = list(dict.fromkeys(args.tasks.split(",")))
    unknown = [name for name in names if name not in by_name]
    if unknown:
        parser.error(f"--tasks: no hyperparameters for '{unknown[0]}'. Known: {', '.join(by_name)}.")
    if args.seeds is not None and args.seeds < 2:
        parser.error(f"--seeds is {args.seeds}, and a standard deviation needs 2 at least.")
    changes = {"seeds": args.seeds} if args.seeds else {}
    return args, [replace(by_name[name], **changes) for name in names]


def main() -> None:
    """Train what has not been trained yet, and print the comparison."""
    args, cases = parse_arguments()
    from qvtune.amounts import format_seconds
    from qvtune.errors import QVTuneError
    from qvtune.training.folder import RunFolder

    by_name = {case.name: case for case in cases}
    runs = list_runs(cases)
    try:
        configs = {run: configuration(run, by_name[run.task], args) for run in runs}
        if args.one:
            train_here(next(configs[run] for run in runs if run.name == args.one))
            return
        for config in configs.values():  # all of them before the first one trains
            RunFolder(config.out).claim(config)
    except QVTuneError as error:
        raise SystemExit(str(error)) from error
    outcomes: list[Outcome] = []
    for number, run in enumerate(runs, 1):
        outcomes.append(finish(run, configs[run]))
        outcome, left = outcomes[-1], seconds_left(runs[number:], outcomes)
        print(
            f"{number}/{len(runs)} {run.name}: {outcome.metric} {outcome.value:.4f}, loss {outcome.loss:.4f}, "
            f"{format_seconds(outcome.seconds)}; about {format_seconds(left)} left",
            file=sys.stderr,
            flush=True,
        )
    report(cases, outcomes, args)


if __name__ == "__main__":
    main()
