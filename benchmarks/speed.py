"""Speed of fine-tuning, against transformers' Trainer with PEFT: the common way, its best flags, and qvtune.

    python benchmarks/speed.py --glue-dir glue --out docs/benchmarks/speed

All three train LoRA of rank 8 on query and value, and the head, on the same examples with the same batch size, dropout
and optimizer. "public" pads every example to the length limit in float32; "flags" groups by length, pads to the batch
and runs bfloat16 autocast or float32, whichever is faster in a short trial on this machine, which the page gives: where
there are no products in bfloat16, autocast makes every step several times slower. "qvtune" is `qvtune train`. Every
measurement is a process of its own, the ways take turns, and medians over the rounds count. An epoch is trained on a
sample of the examples and scaled to all of them.

The files are named for the kind of processor, docs/benchmarks/speed-amx.md and so on, so that each keeps its table. A
processor is held to fewer instructions, the rival's libraries too, by variables:

    export QVTUNE_ISA=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
    python benchmarks/speed.py --glue-dir glue --cases sst2,rte --rounds 1 --out docs/benchmarks/speed
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flags import describe_flags, time_precisions, trainer_flags
from results import for_this_machine, write_results

WAYS = ("public", "flags", "qvtune")
# "flags" under torch.compile, which compilation.py measures.
COMPILED = "compiled"
BATCH, RANK, LR = 32, 8, 4e-4


@dataclass(frozen=True)
class Case:
    """What is trained: `samples` examples for the fast ways, `padded` of them for the one that pads all alike."""

    name: str
    model: str
    data: str
    samples: int
    padded: int
    max_length: int = 128


CASES = (
    Case("cola", "pkg:minilm", "glue/cola", 4800, 256),
    Case("sst2", "pkg:minilm", "glue/sst2", 4800, 256),
    Case("mrpc", "pkg:minilm", "glue/mrpc", 1600, 256),
    Case("rte", "pkg:minilm", "glue/rte", 1600, 256),
    Case("stsb", "pkg:minilm", "glue/stsb", 1600, 256),
    Case("imdb", "pkg:minilm", "pkg:imdb", 256, 96, 512),
    Case("smollm2", "pkg:smollm2", "glue/rte", 128, 64),
)
GLUE = ("cola", "sst2", "mrpc", "rte", "stsb")


@dataclass
class Clock:
    """When a training began and each of its steps ended, in seconds since 1970; its evaluation's speed, its memory."""

    begin: float = 0.0
    steps: list[float] = field(default_factory=list)
    evaluation: float = 0.0
    memory: int = 0

    def evaluated(self, samples_per_second: float) -> None:
        """Note the first evaluation's speed, and the memory up to now."""
        from qvtune.training.environment import peak_memory

        self.evaluation = self.evaluation or samples_per_second
        self.memory = peak_memory()[0]


def measure(case: Case, way: str, precision: str, glue_dir: Path, started: float) -> dict[str, Any]:
    """Train and evaluate once in this process; `precision` is the flags'."""
    import torch

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        if way == "qvtune":
            counted = train_qvtune(case, glue_dir, out, clock)
        else:
            counted = train_plain(case, way, precision, glue_dir, out, clock)
    steps = clock.steps
    if way == "public":  # all its steps are alike, and the first one also allocates
        seconds, samples = steps[-1] - steps[0], counted["samples"] - BATCH
    else:
        seconds, samples = steps[-1] - clock.begin, counted["samples"]
    return {
        "train_samples_per_second": samples / seconds,
        "train_tokens_per_second": samples / seconds * counted["tokens"] / counted["samples"],
        "evaluation_samples_per_second": clock.evaluation,
        "seconds_to_first_step": steps[0] - started,
        "peak_memory": clock.memory,
        "metric": counted["metric"],
        "examples": counted["examples"],
        "operations_per_sample": counted["operations"] / counted["samples"],
        "threads": torch.get_num_threads(),
    }


def configuration(case: Case, glue_dir: Path, samples: int | None, out: Path) -> Any:
    """Return the options that all three ways follow."""
    from qvtune.training.config import make_config

    return make_config(
        {
            "model": case.model,
            "data": case.data,
            "glue_dir": glue_dir if case.data.startswith("glue/") else None,
            "max_train_samples": samples,
            "max_eval_samples": 256,
            "max_length": case.max_length,
            "lr": LR,
            "lr_ratio": 1.0,
            "rank": RANK,
            "alpha": RANK,
            "epochs": 1,
            "batch_size": BATCH,
            "device": "cpu",
            "out": str(out),
        }
    )


def train_qvtune(case: Case, glue_dir: Path, out: Path, clock: Clock) -> dict[str, Any]:
    """Train as `qvtune train` does."""
    from rich.console import Console

    import qvtune
    from qvtune.training.run import run

    prepared: list[Any] = []
    config = configuration(case, glue_dir, case.samples, out)

    class Watch(qvtune.Callback):
        def on_train_begin(self, progress: Any) -> None:
            clock.begin = time.time()

        def on_step_end(self, progress: Any) -> None:
            clock.steps.append(time.time())

        def on_evaluate(self, progress: Any, metrics: Any) -> None:
            examples = sum(len(tokens) for tokens in prepared[0].splits.values())
            clock.evaluated(examples / (time.time() - clock.steps[-1]))

    result = run(config, Console(quiet=True), prepared.append, callbacks=[Watch()])
    train = prepared[0].train
    return counts(train, prepared[0].model, case, glue_dir) | {"metric": result["metrics"][result["main_metric"]]}


def load_unadapted(config: Any) -> tuple[Any, Any, Any]:
    """Return the model of a configuration before it is adapted, with a head from its seed, its tokenizer and data."""
    from transformers import set_seed

    from qvtune.tasks.load import load_data
    from qvtune.training.model import find_model, load_config, load_model, load_tokenizer

    source = find_model(config.model, False)
    model_config = load_config(source)
    tokenizer = load_tokenizer(source, model_config)
    data = load_data(config, config.seed)
    set_seed(config.seed)
    return load_model(source, model_config, data.task, tokenizer, new_head=False), tokenizer, data


def train_plain(case: Case, way: str, precision: str, glue_dir: Path, out: Path, clock: Clock) -> dict[str, Any]:
    """Train with transformers and PEFT alone; qvtune reads the data and loads the model."""
    import numpy as np
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import (
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        default_data_collator,
    )

    samples = case.padded if way == "public" else case.samples
    config = configuration(case, glue_dir, samples, out)
    model, tokenizer, data = load_unadapted(config)
    targets = ["query", "value"] if "minilm" in case.model else ["q_proj", "v_proj"]
    adapters = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=RANK, lora_dropout=config.dropout, target_modules=targets
    )
    model = get_peft_model(model, adapters)

    def encode(batch: dict[str, list[Any]]) -> Any:
        padding = "max_length" if way == "public" else False
        return tokenizer(
            batch["text"], batch.get("text_pair"), truncation=True, max_length=case.max_length, padding=padding
        )

    def tokens(dataset: Any) -> Any:
        columns = [name for name in dataset.column_names if name != "label"]
        return dataset.map(encode, batched=True, remove_columns=columns).rename_column("label", "labels")

    train, evaluation = tokens(data.train), tokens(next(iter(data.evaluation.values())))
    flags: dict[str, Any] = {}
    if way != "public":
        flags = trainer_flags(precision) | {"torch_compile": way == COMPILED}
    arguments = TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=BATCH, per_device_eval_batch_size=config.eval_batch_size,
        num_train_epochs=1, learning_rate=LR, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        eval_strategy="no", logging_steps=10, seed=config.seed, dataloader_pin_memory=False, **flags,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=train, processing_class=tokenizer,
        data_collator=default_data_collator if way == "public" else DataCollatorWithPadding(tokenizer),
    )  # fmt: skip

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.begin = time.time()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.steps.append(time.time())

    trainer.add_callback(Watch())
    trainer.train()
    output = trainer.predict(evaluation)
    clock.evaluated(output.metrics["test_samples_per_second"])
    metrics = data.task.metrics(np.asarray(output.predictions, dtype=np.float32), output.label_ids)
    return counts(train, model, case, glue_dir) | {"metric": metrics[data.task.main_metric]}


def counts(train: Any, model: Any, case: Case, glue_dir: Path) -> dict[str, Any]:
    """Count examples, tokens, and the operations that no way can spare: every matrix forward and for its input."""
    from qvtune.roles.unwrap import unwrap
    from qvtune.tasks.load import load_data

    lengths = [sum(mask) for mask in train["attention_mask"]]
    inner = unwrap(model)
    config = inner.config
    body = [p for name, p in inner.base_model.named_parameters() if p.dim() == 2 and "embed" not in name]
    matrices = sum(p.numel() for p in body if min(p.shape) > RANK)
    width, layers = config.hidden_size, config.num_hidden_layers
    operations = sum(2 * 2 * n * matrices + 3 * 4 * n * n * width * layers for n in lengths)
    whole = load_data(configuration(case, glue_dir, None, Path("unused")), 0)
    return {
        "samples": len(lengths),
        "tokens": sum(lengths),
        "operations": operations,
        "examples": len(whole.train),
    }


def matrix_rate() -> dict[str, float]:
    """Return the operations per second of a MiniLM feed-forward product, in bfloat16 and float32."""
    import torch

    rates = {}
    for dtype in (torch.bfloat16, torch.float32):
        x, w = torch.randn(2048, 384).to(dtype), torch.randn(1536, 384).to(dtype)
        times = []
        for _ in range(30):
            start = time.perf_counter()
            for _ in range(5):
                torch.nn.functional.linear(x, w)
            times.append((time.perf_counter() - start) / 5)
        rates[str(dtype).removeprefix("torch.")] = 2 * 2048 * 384 * 1536 / statistics.median(times)
    return rates


def in_process(words: list[str]) -> dict[str, Any]:
    """Run this file with other words in a process of its own and return the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, check=False, env=os.environ
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def trial(common: list[str]) -> dict[str, float]:
    """Return the seconds of a step in both precisions, from a process of its own."""
    return in_process([*common, "precisions"])


def summarize(rounds: list[dict[str, dict[str, dict[str, Any]]]], rates: list[dict[str, float]]) -> dict[str, Any]:
    """Return medians over the rounds, ratios and the fraction of the floor, by case.

    The floor is at the rate of products in the type that is faster here.
    """
    rate = max(statistics.median(r[dtype] for r in rates) for dtype in rates[0])
    cases = {}
    for name in rounds[0]:
        ways = {
            way: {
                key: statistics.median(r[name][way][key] for r in rounds) if isinstance(value, (int, float)) else value
                for key, value in rounds[0][name][way].items()
            }
            for way in WAYS
        }
        ours = ways["qvtune"]["train_samples_per_second"]
        cases[name] = {
            "ways": ways,
            "times_public": ours / ways["public"]["train_samples_per_second"],
            "times_flags": ours / ways["flags"]["train_samples_per_second"],
            "of_floor": ours * ways["qvtune"]["operations_per_sample"] / rate,
        }
    result: dict[str, Any] = {"cases": cases, "matrix_rate": rate, "rounds": len(rounds)}
    if all(name in cases for name in GLUE):
        epoch = {way: sum(epoch_seconds(cases[name]["ways"][way]) for name in GLUE) for way in WAYS}
        result["glue_epoch"] = {
            "seconds": epoch,
            "times_public": epoch["public"] / epoch["qvtune"],
            "times_flags": epoch["flags"] / epoch["qvtune"],
        }
    return result


def epoch_seconds(way: dict[str, Any]) -> float:
    """Return the time of one epoch over all examples."""
    return way["examples"] / way["train_samples_per_second"]


def table(summary: dict[str, Any], kind: str) -> str:
    """Return the summary as two tables in Markdown, of training and of the rest, and the time of an epoch of GLUE.

    Args:
        summary: of `summarize`.
        kind: of the processor, which each table names.
    """
    lines = [
        f"| {kind} | train samples/s | | | train tokens/s | | | ratio to | | of floor | s to first step | | |",
        "| --- " * 13 + "|",
        f"| | {' | '.join([*WAYS] * 2)} | public | flags | qvtune | {' | '.join(WAYS)} |",
    ]
    for name, case in summary["cases"].items():
        cells = [*cells_of(case, "train_samples_per_second"), *cells_of(case, "train_tokens_per_second", "{:.0f}")]
        cells += [f"{case['times_public']:.1f}", f"{case['times_flags']:.2f}", f"{case['of_floor']:.0%}"]
        lines.append(f"| {name} | " + " | ".join([*cells, *cells_of(case, "seconds_to_first_step")]) + " |")
    lines += [
        "",
        f"| {kind} | evaluation samples/s | | | peak memory, MiB | | | metric | | |",
        "| --- " * 10 + "|",
        f"| | {' | '.join([*WAYS] * 3)} |",
    ]
    for name, case in summary["cases"].items():
        cells = [*cells_of(case, "evaluation_samples_per_second"), *cells_of(case, "peak_memory", "{:.0f}", 2**20)]
        lines.append(f"| {name} | " + " | ".join([*cells, *cells_of(case, "metric", "{:.3f}")]) + " |")
    if "glue_epoch" in summary:
        epoch = summary["glue_epoch"]
        seconds = ", ".join(f"{way} {value / 60:.1f} min" for way, value in epoch["seconds"].items())
        lines += [
            "",
            f"One epoch of the five GLUE tasks: {seconds}; qvtune is {epoch['times_public']:.1f} times as fast as "
            f"public and {epoch['times_flags']:.2f} times as fast as flags.",
        ]
    return "\n".join(lines)


def cells_of(case: dict[str, Any], key: str, shape: str = "{:.1f}", unit: int = 1) -> list[str]:
    """Return a number of each way as text."""
    return [shape.format(case["ways"][way][key] / unit) for way in WAYS]


def draw(summary: dict[str, Any]) -> dict[str, Any]:
    """Draw the speed of training relative to "flags" as bars, a group for each case."""
    import altair as alt

    from qvtune.report.plot import to_spec
    from qvtune.report.theme import PALETTE

    rows = []
    for name, case in summary["cases"].items():
        speeds = {way: case["ways"][way]["train_samples_per_second"] for way in WAYS}
        rows += [{"case": name, "way": way, "ratio": speed / speeds["flags"]} for way, speed in speeds.items()]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("case:N", sort=None, title=None, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("way:N", sort=None),
        y=alt.Y("ratio:Q", title="training samples/s, flags = 1"),
    )
    colours = alt.Scale(domain=list(WAYS), range=list(PALETTE[: len(WAYS)]))
    bars = base.mark_bar().encode(color=alt.Color("way:N", scale=colours, legend=alt.Legend(orient="top", title=None)))
    numbers = base.mark_text(dy=-6, fontSize=9).encode(text=alt.Text("ratio:Q", format=".2f"))
    return to_spec((bars + numbers).properties(width=900, height=300))


def parse_cases(description: str, cases: str) -> tuple[argparse.Namespace, list[Case]]:
    """Return the words of a benchmark that trains some of the cases, and those cases."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--glue-dir", type=Path, required=True, metavar="DIR", help="Where GLUE is.")
    parser.add_argument("--cases", default=cases, metavar="NAMES", help="Cases of speed.py.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Write FILE.json and FILE.md.")
    args = parser.parse_args()
    by_name = {case.name: case for case in CASES}
    if unknown := sorted(set(args.cases.split(",")) - set(by_name)):
        parser.error(f"--cases: unknown {', '.join(unknown)}. Known: {', '.join(by_name)}.")
    return args, [by_name[name] for name in args.cases.split(",")]


def main() -> None:
    """Measure every case in every way, in turns, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--glue-dir", type=Path, required=True, metavar="DIR", help="Where GLUE is.")
    parser.add_argument("--cases", default=",".join(case.name for case in CASES), metavar="NAMES")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="Measurements of each case and way.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Write FILE-KIND.json, .md and .png.")
    parser.add_argument("--one", metavar="CASE:WAY:PRECISION:STARTED", help=argparse.SUPPRESS)
    args = parser.parse_args()
    by_name = {case.name: case for case in CASES}
    if args.one == "rate":
        print(json.dumps(matrix_rate()))
        return
    if args.one == "precisions":
        print(json.dumps(time_precisions()))
        return
    if args.one:
        name, way, precision, started = args.one.split(":")
        print(json.dumps(measure(by_name[name], way, precision, args.glue_dir, float(started))))
        return
    common = ["--glue-dir", str(args.glue_dir), "--one"]
    times = trial(common)
    precision = min(times, key=lambda name: times[name])
    print(describe_flags(times), file=sys.stderr, flush=True)
    rounds, rates = [], []
    for number in range(args.rounds):
        rates.append(in_process([*common, "rate"]))
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for name in args.cases.split(","):
            for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                found.setdefault(name, {})[way] = in_process([*common, f"{name}:{way}:{precision}:{time.time()}"])
                speed = found[name][way]["train_samples_per_second"]
                print(f"round {number + 1}, {name}, {way}: {speed:.1f} samples/s", file=sys.stderr, flush=True)
        rounds.append(found)
    from qvtune.training.hardware import processor_kind

    summary = summarize(rounds, rates)
    text = f"{table(summary, processor_kind())}\n\n{describe_flags(times)}"
    print(text)
    if args.out:
        numbers = {
            "precisions": times,
            "cases": [asdict(c) for c in CASES],
            "summary": summary,
            "rounds": rounds,
            "rates": rates,
        }
        title = "Speed against transformers' Trainer with PEFT"
        write_results(for_this_machine(args.out), title, text, numbers, draw(summary))


if __name__ == "__main__":
    main()
