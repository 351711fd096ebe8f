"""What part of a run's training time is spent on role telemetry, with the default of a logged step in ten.

    python benchmarks/telemetry_cost.py --glue-dir glue --out docs/benchmarks/telemetry

Trains each case of speed.py as `qvtune train` does and times every call of the telemetry inside of the run, so that
another load of the machine slows both alike.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import write_results
from speed import Case, configuration, parse_cases


def measure(case: Case, glue_dir: Path) -> dict[str, float]:
    """Return seconds of training and, of those, of telemetry, by what it does."""
    from qvtune.training import output_change, telemetry
    from qvtune.training.run import run

    spent: dict[str, float] = {}

    def timed(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[what] = spent.get(what, 0.0) + time.perf_counter() - start

        return call

    places = (
        ("inputs and weights kept", output_change.OutputMeter, "weights"),
        ("inputs and weights kept", output_change._Watched, "capture"),
        ("movement since the start", telemetry.UpdateMeter, "measure"),
        ("movement in the step", telemetry, "step_sizes"),
        ("change of the output", output_change.OutputMeter, "measure"),
    )
    before = [getattr(owner, name) for _, owner, name in places]
    for (what, owner, name), function in zip(places, before, strict=True):
        setattr(owner, name, timed(what, function))
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = run(configuration(case, glue_dir, case.samples, Path(folder) / "run"))
    finally:
        for (_, owner, name), function in zip(places, before, strict=True):
            setattr(owner, name, function)
    training = result["epochs"] * result["train_examples"] / result["train_samples_per_second"]
    return {"training": training, "steps": result["steps"], **spent}


def table(found: dict[str, dict[str, float]]) -> str:
    """Return the shares of training time in Markdown."""
    parts = [name for name in next(iter(found.values())) if name not in ("training", "steps")]
    lines = [
        f"| case | steps | training | {' | '.join(parts)} | together |",
        f"| --- | --- | --- |{' --- |' * (len(parts) + 1)}",
    ]
    for name, seconds in found.items():
        shares = [seconds[part] / seconds["training"] for part in parts]
        cells = " | ".join(f"{share:.2%}" for share in (*shares, sum(shares)))
        lines.append(f"| {name} | {seconds['steps']:.0f} | {seconds['training']:.1f} s | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every case and print a table."""
    args, cases = parse_cases(__doc__ or "", "sst2,mrpc,rte,stsb")
    found = {case.name: measure(case, args.glue_dir) for case in cases}
    print(table(found))
    if args.out:
        write_results(args.out, "What telemetry costs", table(found), {"cases": found})


if __name__ == "__main__":
    main()
