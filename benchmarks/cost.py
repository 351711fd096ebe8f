"""How the cost of a training step grows with the length of texts, the batch and the width of the model.

    python benchmarks/cost.py --out docs/benchmarks/cost

Trains LoRA of rank 8 on query and value, and the head, of a random BERT of six layers on random tokens, nothing padded.
"flags" is plain PEFT, under bfloat16 autocast where that is faster; "qvtune" is `adapt` and `make_fast`. Loop,
optimizer and clipping are the same. One of length, batch and width varies while the others stay. Every point is a
process of its own, whose peak memory counts Python and its libraries too, and the ways take turns. Speed is that of the
median step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from results import write_results

WAYS = ("flags", "qvtune")
LAYERS, RANK, DROPOUT, LR, VOCABULARY = 6, 8, 0.1, 4e-4, 30522
WARM_UP = 2
# Seconds of timed steps that another step would exceed: then a point ends with fewer of them.
LONGEST = 20


class Point(NamedTuple):
    """What a step is of: tokens of a text, texts of a batch, width of the model."""

    length: int = 64
    batch: int = 32
    width: int = 384


class Ready(NamedTuple):
    """A model to train, its parameters or their groups, whether it computes in bfloat16, and what to train within."""

    model: Any
    groups: list[Any]
    is_narrow: bool
    memory: AbstractContextManager[None]


SWEEPS = {
    "length": (16, 32, 64, 128, 256, 512),
    "batch": (8, 16, 32, 64, 128),
    "width": (128, 256, 384, 768, 1024),
}
AXES = {"length": "tokens of a text", "batch": "texts of a batch", "width": "width of the model"}


def measure(point: Point, way: str, steps: int) -> dict[str, Any]:
    """Train some steps in this process."""
    import torch

    torch.manual_seed(0)
    ids = torch.randint(VOCABULARY, (point.batch, point.length))
    labels = torch.arange(point.batch) % 2
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    make = make_qvtune if way == "qvtune" else make_flags
    model, groups, is_narrow, memory = make(make_model(point.width))
    optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=0.0, fused=True)
    with memory:
        seconds = step_seconds(model.train(), batch, optimizer, is_narrow=is_narrow, steps=steps)
    # Imported here, so that nothing of qvtune is loaded while the other way trains.
    from qvtune.training.environment import peak_memory

    return {
        "samples_per_second": point.batch / statistics.median(seconds),
        "peak_memory": peak_memory()[0],
        "step_seconds": seconds,
        "threads": torch.get_num_threads(),
    }


def make_model(width: int) -> Any:
    """Return a BERT with random weights, with heads as wide as those of released ones of its size."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // (64 if width >= 768 else 32),
        intermediate_size=4 * width,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
    )
    return BertForSequenceClassification(config)


def make_flags(model: Any) -> Ready:
    """Adapt a model by PEFT."""
    from flags import fastest_precision
    from peft import LoraConfig, TaskType, get_peft_model

    adapters = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=RANK, lora_dropout=DROPOUT, target_modules=["query", "value"]
    )
    model = get_peft_model(model, adapters)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Ready(model, trained, fastest_precision() == "bf16", nullcontext())


def make_qvtune(model: Any) -> Ready:
    """Adapt and accelerate a model by qvtune."""
    import qvtune
    from qvtune.device import device_of
    from qvtune.fast.cpu.memory import kept_memory
    from qvtune.fast.precision import resolve_precision

    model = qvtune.adapt(model, roles="qv", rank=RANK, alpha=RANK, dropout=DROPOUT)
    model = qvtune.make_fast(model, precision="auto")
    is_narrow = resolve_precision("auto", device_of(model)) == "bf16"
    return Ready(model, qvtune.param_groups(model, lr=LR), is_narrow, kept_memory())


def step_seconds(model: Any, batch: dict[str, Any], optimizer: Any, *, is_narrow: bool, steps: int) -> list[float]:
    """Return the time of every step after the warm-up."""
    import torch

    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    seconds: list[float] = []
    for number in range(WARM_UP + steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_narrow):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - start)
        if seconds and sum(seconds) + seconds[-1] > LONGEST:
            break
    return seconds


def in_process(point: Point, way: str, steps: int) -> dict[str, Any]:
    """Measure a point in a process of its own."""
    words = ["--steps", str(steps), "--one", ":".join(map(str, (way, *point)))]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure_all(steps: int) -> dict[str, list[dict[str, Any]]]:
    """Return the points of every sweep; one that several sweeps share is measured once."""
    known: dict[Point, dict[str, Any]] = {}
    sweeps: dict[str, list[dict[str, Any]]] = {}
    for sweep, values in SWEEPS.items():
        for value in values:
            point = Point()._replace(**{sweep: value})
            if point not in known:
                order = WAYS if len(known) % 2 == 0 else WAYS[::-1]
                known[point] = {way: in_process(point, way, steps) for way in order}
                speeds = ", ".join(f"{way} {known[point][way]['samples_per_second']:.1f}" for way in WAYS)
                print(f"{sweep} {value}: {speeds} samples/s", file=sys.stderr, flush=True)
            sweeps.setdefault(sweep, []).append({"value": value, **known[point]})
    return sweeps


def table(sweeps: dict[str, list[dict[str, Any]]]) -> str:
    """Return all points as a table in Markdown."""
    at = ", ".join(f"{name} {value}" for name, value in Point()._asdict().items())
    lines = [
        f"One varies, the others stay at {at}.",
        "",
        "| | | samples/s | | | peak memory, MiB | |",
        "| --- " * 7 + "|",
        f"| | | {' | '.join(WAYS)} | ratio | {' | '.join(WAYS)} |",
    ]
    for sweep, points in sweeps.items():
        for point in points:
            speeds = [point[way]["samples_per_second"] for way in WAYS]
            cells = [*(f"{speed:.1f}" for speed in speeds), f"{speeds[1] / speeds[0]:.2f}"]
            cells += [f"{point[way]['peak_memory'] / 2**20:.0f}" for way in WAYS]
            lines.append(f"| {sweep} | {point['value']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(sweeps: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Draw speed above and memory below, a column for each sweep."""
    from qvtune.report.chart import Chart, Series
    from qvtune.report.lines import draw_chart
    from qvtune.report.plot import side_by_side

    kinds = (("samples_per_second", 1, "training, samples/s"), ("peak_memory", 2**20, "peak memory, MiB"))
    every = [point[way] for points in sweeps.values() for point in points for way in WAYS]
    charts = []
    for key, unit, label in kinds:
        sizes = [numbers[key] / unit for numbers in every]
        for sweep, points in sweeps.items():
            values = [float(point["value"]) for point in points]
            series = [Series(way, values, [point[way][key] / unit for point in points]) for way in WAYS]
            fixed = ", ".join(f"{name} {value}" for name, value in Point()._asdict().items() if name != sweep)
            ends = min(sizes) / 1.2, max(sizes) * 1.2
            charts.append(
                Chart(fixed, AXES[sweep], label, series, log_x=True, log_y=True, x_ticks=values, y_range=ends)
            )
    return side_by_side([draw_chart(chart) for chart in charts], columns=len(sweeps))


def main() -> None:
    """Measure every point in both ways, print the table and draw it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="Timed steps of each point and way.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Write FILE.json, FILE.md and FILE.png.")
    parser.add_argument("--one", metavar="WAY:LENGTH:BATCH:WIDTH", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f"--steps is {args.steps}; it must be at least 1.")
    if args.one:
        way, *numbers = args.one.split(":")
        print(json.dumps(measure(Point(*map(int, numbers)), way, args.steps)))
        return
    sweeps = measure_all(args.steps)
    text = table(sweeps)
    print(text)
    if args.out:
        numbers = {"steps": args.steps, "sweeps": sweeps}
        write_results(args.out, "How cost grows", text, numbers, draw(sweeps))


if __name__ == "__main__":
    main()
