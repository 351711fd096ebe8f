"""Does torch.compile pay? Trainer with PEFT and its best flags as it is, compiled, and compiled from a warm cache.

    python benchmarks/compilation.py --glue-dir glue --out docs/benchmarks/compilation

Each way trains on the same sample of SST-2 as in speed.py, in a process of its own. "compiled" starts with an empty
cache of torch.compile, "compiled again" with what the former left there. From the seconds to the first step and the
samples per second follows when a way has caught up with "flags"; compiling for further lengths makes steps after the
first slow too, and counts in the samples per second.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from flags import describe_flags
from results import write_results
from speed import COMPILED, in_process, trial

CASE = "sst2"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--glue-dir", type=Path, required=True, metavar="DIR", help="Where GLUE is.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Write FILE.json and FILE.md.")
    args = parser.parse_args()
    ways = {"flags": "flags", "compiled": COMPILED, "compiled again": COMPILED, "qvtune": "qvtune"}
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        common = ["--glue-dir", str(args.glue_dir), "--one"]
        times = trial(common)
        precision = min(times, key=lambda name: times[name])
        for name, way in ways.items():
            found[name] = in_process([*common, f"{CASE}:{way}:{precision}:{time.time()}"])
    text = f"{table(found)}\n\n{describe_flags(times)}"
    print(text)
    if args.out:
        write_results(args.out, "Does torch.compile pay?", text, {"ways": found})


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the measurements as a table in Markdown."""
    lines = ["| | seconds to the first step | samples/s | peak memory, MiB |", "| --- | --- | --- | --- |"]
    for name, way in found.items():
        cells = way["seconds_to_first_step"], way["train_samples_per_second"], way["peak_memory"] / 2**20
        lines.append(f"| {name} | {cells[0]:.1f} | {cells[1]:.1f} | {cells[2]:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
