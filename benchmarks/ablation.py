"""What each part of the fast path brings: a step without it, against a step with all of them.

    python benchmarks/ablation.py --glue-dir glue --out docs/benchmarks/ablation

The parts are those of `qvtune.fast.parts`. Each is left out by turns, on cases of speed.py: LoRA of rank 8 on query and
value, and the head, by AdamW. A variant trains on the same batches in every round, in a process of its own that starts
from the same loaded model; the variants take turns. The time of a step is its median over the rounds, and they are
averaged over the steps. "nothing" is all parts a second time: how far its ratio is from 1 is the noise. "everything" is
plain PEFT in the same precision, on batches in any order. Peak memory counts Python and its libraries too.

The files hold a table for each kind of processor; a run replaces that of its own. speed.py says by which variables a
processor is held to fewer instructions. Linux alone has the processes that this needs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from results import LIBRARIES, about
from speed import BATCH, CASES, LR, RANK, Case, configuration, load_unadapted

DEFAULT_CASES = "sst2,rte,smollm2"
# Timed steps of a round at most, after one that is not timed; of some cases, whose steps are long, fewer.
MOST_STEPS = 20
FEWER_STEPS = {"smollm2": 3}
NOTHING, EVERYTHING = "nothing", "everything"
# What a part has to bring, of time or of memory.
LEAST = 0.03


class Material(NamedTuple):
    """An adapted model, the tokens of the examples, what pads them, and the precision."""

    model: Any
    rows: list[dict[str, Any]]
    collate: Callable[[list[dict[str, Any]]], Any]
    precision: str


def variants() -> dict[str, tuple[str, ...]]:
    """Return the parts that are left out, by the name of the row. The first one has all."""
    from qvtune.fast.parts import PARTS

    names = tuple(part.name for part in PARTS)
    return {"": (), **{name: (name,) for name in names}, NOTHING: (), EVERYTHING: names}


def load(case: Case, glue_dir: Path, steps: int) -> Material:
    """Load what all variants of a case train."""
    import torch
    from transformers import DataCollatorWithPadding

    import qvtune
    from qvtune.data.tokens import tokenize
    from qvtune.fast.precision import resolve_precision

    samples = BATCH * min(steps, FEWER_STEPS.get(case.name, steps))
    config = configuration(case, glue_dir, min(case.samples, samples), Path("unused"))
    model, tokenizer, data = load_unadapted(config)
    model = qvtune.adapt(model, roles="qv", rank=RANK, alpha=RANK, dropout=config.dropout)
    rows = tokenize(data.train, tokenizer, case.max_length).to_list()
    precision = resolve_precision("auto", torch.device("cpu"))
    return Material(model, rows, DataCollatorWithPadding(tokenizer), precision)


def batches(material: Material, *, by_length: bool) -> list[Any]:
    """Return the full batches of an epoch, padded."""
    import numpy as np

    from qvtune.fast.batches import LengthBatches

    lengths = [len(row["input_ids"]) for row in material.rows]
    shuffled = np.random.default_rng(0).permutation(len(lengths)).tolist()
    order = list(LengthBatches(lengths, BATCH, seed=0)) if by_length else shuffled
    starts = range(0, len(order) - BATCH + 1, BATCH)
    return [material.collate([material.rows[i] for i in order[start : start + BATCH]]) for start in starts]


def measure(material: Material, without: Collection[str], looks_of_all: str | None, threads: int) -> dict[str, Any]:
    """Train an epoch in this process without some parts, on so many threads.

    Returns:
        `step_seconds` and `peak_memory`, or that the part "is_unused": the model looks as it does with all parts.
    """
    import torch

    import qvtune
    from qvtune.fast.fast_path import apply_parts
    from qvtune.fast.parts import PARTS
    from qvtune.training.environment import peak_memory, reset_peak_memory

    if "kernels" in without:  # as on a machine that has no compiler
        os.environ.pop("CXX", None)
        os.environ["PATH"] = ""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    reset_peak_memory()
    model = apply_parts(material.model, precision=material.precision, without=without)
    found = looks(model)
    is_of_model = all(part.by == "model" for part in PARTS if part.name in without)
    if without and is_of_model and found == looks_of_all:
        return {"is_unused": True}
    optimizer = torch.optim.AdamW(qvtune.param_groups(model, lr=LR), weight_decay=0.0, fused=True)
    seconds = step_seconds(model, optimizer, material, without)
    return {"step_seconds": seconds, "peak_memory": peak_memory()[0], "looks": found}


def looks(model: Any) -> str:
    """Return what a part can change in a model: its classes, types of numbers, and attention."""
    classes = [[kind.__qualname__ for kind in type(module).__mro__] for module in model.modules()]
    types = [str(parameter.dtype) for parameter in model.parameters()]
    return json.dumps([classes, types, model.config._attn_implementation])


def step_seconds(model: Any, optimizer: Any, material: Material, without: Collection[str]) -> list[float]:
    """Return the time of every step of an epoch, but for one before it."""
    import torch

    from qvtune.fast.cpu.memory import kept_memory

    epoch = batches(material, by_length="batches by length" not in without)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    seconds = []
    with ExitStack() as stack:
        if "kept memory" not in without:
            stack.enter_context(kept_memory())
        for batch in [epoch[0], *epoch]:
            start = time.perf_counter()
            model.train()  # and `zero_grad` of the model, as transformers' loop does
            with torch.autocast("cpu", torch.bfloat16, enabled=material.precision == "bf16"):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            model.zero_grad()
            seconds.append(time.perf_counter() - start)
    return seconds[1:]


def in_child(compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a copy of this process computes."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as file:
                json.dump(compute(), file)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit("a measurement failed.")
    return json.loads(text)


def measure_case(case: Case, glue_dir: Path, rounds: int, steps: int) -> dict[str, list[dict[str, Any]]]:
    """Return the measurements of every variant, one of each round."""
    import torch

    # Threads of OpenMP are not in a copied process, so there are none before it starts.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    material = load(case, glue_dir, steps)
    rows = list(variants().items())
    found: dict[str, list[dict[str, Any]]] = {name: [] for name, _ in rows}
    looks_of_all: str | None = None
    for number in range(rounds):
        # The first round begins with all parts, which says how the model looks; each one turns the others further.
        place = number * (len(rows) // rounds)
        for name, without in rows[place:] + rows[:place]:
            if found[name] and "is_unused" in found[name][0]:
                continue
            start = time.perf_counter()
            measured = in_child(partial(measure, material, without, looks_of_all, threads))
            looks_of_all = looks_of_all or measured["looks"]
            measured.pop("looks", None)
            found[name].append(measured)
            spent = time.perf_counter() - start
            print(
                f"{case.name}, round {number + 1}, without {name or NOTHING}: {spent:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return found


def summarize(found: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return the milliseconds of a step and the peak memory in MiB by variant, and both over those of all parts."""
    summary = {}
    for name, rounds in found.items():
        if "is_unused" in rounds[0]:
            continue
        steps = zip(*(measured["step_seconds"] for measured in rounds), strict=True)
        milliseconds = 1000 * statistics.mean(statistics.median(step) for step in steps)
        memory = statistics.median(measured["peak_memory"] for measured in rounds) / 2**20
        summary[name] = {"step_ms": milliseconds, "peak_mib": memory}
    for values in summary.values():
        values["time_ratio"] = values["step_ms"] / summary[""]["step_ms"]
        values["memory_ratio"] = values["peak_mib"] / summary[""]["peak_mib"]
    return summary


def table(summaries: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return a processor's table in Markdown: a row for each part, two columns for each case."""
    from qvtune.fast.parts import PARTS

    lines = [
        "| left out | " + " | ".join(f"{name}: time | memory" for name in summaries) + " |",
        "| --- " * (1 + 2 * len(summaries)) + "|",
    ]
    for row in (*(part.name for part in PARTS), NOTHING, EVERYTHING):
        cells = [
            f"{summary[row]['time_ratio']:.2f} | {summary[row]['memory_ratio']:.2f}"
            if row in summary
            else "not used | "
            for summary in summaries.values()
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    whole = [f"{name} {s['']['step_ms']:.1f} ms and {s['']['peak_mib']:.0f} MiB" for name, s in summaries.items()]
    lines += ["", f"With all parts a step takes: {', '.join(whole)}."]
    return "\n".join([*lines, "", verdict(summaries)])


def verdict(summaries: dict[str, dict[str, dict[str, float]]]) -> str:
    """Name the parts that bring too little on every case."""
    from qvtune.fast.parts import PARTS

    idle = []
    for part in PARTS:
        used = [summary[part.name] for summary in summaries.values() if part.name in summary]
        gains = [values[key] - 1 for values in used for key in ("time_ratio", "memory_ratio")]
        if gains and max(gains) < LEAST:
            idle.append(part.name)
    least = f"less than {LEAST:.0%} of time and of memory on each case"
    return f"Of these parts {', '.join(idle)} bring {least}." if idle else f"No part brings {least}."


def page(machines: dict[str, dict[str, Any]]) -> str:
    """Return the page with the tables of all kinds of processors."""
    from qvtune.fast.parts import PARTS

    lines = [
        "# What each part of the fast path brings",
        "",
        "Printed by `benchmarks/ablation.py`. A part is left out, and the table has the time of a step and the peak "
        "memory as multiples of those with all parts: 1.10 says that a step takes 10 % longer without it. "
        '"nothing" is all parts a second time, which shows the noise. "everything" is plain PEFT in that precision, '
        "on batches in any order. The last layer needs the attention, and is left out with it.",
    ]
    for kind, machine in machines.items():
        here = machine["about"]
        versions = ", ".join(f"{name} {here[name]}" for name in LIBRARIES)
        kernels = "kernels compiled" if here["kernels"]["compiled"] else "no kernels"
        lines += [
            "",
            f"## {kind}",
            "",
            f"{here['processor']}, {here['threads']} threads, {kernels} for {kind}; {versions}.",
        ]
        lines += ["", table(machine["summaries"])]
    lines += ["", "## The parts", "", "| part | what it does |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {part.name} | {part.does} |" for part in PARTS)]) + "\n"


def write(out: Path, summaries: dict[str, Any], found: dict[str, Any], rounds: int) -> None:
    """Write OUT.json and OUT.md, with the numbers of this kind of processor beside those of others."""
    path = out.with_suffix(".json")
    machines = json.loads(path.read_text(encoding="utf-8"))["machines"] if path.is_file() else {}
    here = about()
    cases = [asdict(case) for case in CASES if case.name in summaries]
    numbers = {"about": here, "cases": cases, "rounds": rounds, "summaries": summaries, "measured": found}
    machines = machines | {here["processor_kind"]: numbers}
    out.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machines": machines}, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(machines), encoding="utf-8")


def main() -> None:
    """Measure every case, print its tables, and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--glue-dir", type=Path, required=True, metavar="DIR", help="Where GLUE is.")
    parser.add_argument("--cases", default=DEFAULT_CASES, metavar="NAMES", help="Cases of speed.py.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="Measurements of each part.")
    parser.add_argument(
        "--steps", type=int, default=MOST_STEPS, metavar="N", help="Timed steps of a measurement at most."
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="Write FILE.json and FILE.md.")
    parser.add_argument("--one", metavar="CASE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    by_name = {case.name: case for case in CASES}
    names = args.cases.split(",")
    if unknown := sorted(set(names) - set(by_name)):
        parser.error(f"--cases: unknown {', '.join(unknown)}. Known: {', '.join(by_name)}.")
    for option in ("rounds", "steps"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} is {getattr(args, option)}; it must be at least 1.")
    if args.one:
        print(json.dumps(measure_case(by_name[args.one], args.glue_dir, args.rounds, args.steps)))
        return
    words = ["--glue-dir", str(args.glue_dir), "--rounds", str(args.rounds), "--steps", str(args.steps)]
    found = {}
    for name in names:
        done = subprocess.run(
            [sys.executable, __file__, *words, "--one", name], stdout=subprocess.PIPE, text=True, check=True
        )
        found[name] = json.loads(done.stdout.strip().splitlines()[-1])
    summaries = {name: summarize(measured) for name, measured in found.items()}
    print(table(summaries))
    if args.out:
        write(args.out, summaries, found, args.rounds)


if __name__ == "__main__":
    main()
