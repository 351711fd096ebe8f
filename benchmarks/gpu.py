"""qvtune on a CUDA device: the tests marked `gpu`, and training speed beside transformers' Trainer with PEFT.

    python benchmarks/gpu.py --out docs/benchmarks/gpu

It needs a CUDA device, no network, and under ten minutes: the tests run in four processes, and no round of speeds is
begun that would end later. All ways train LoRA of rank 8 on query and value, and the head, on the same examples with
the same batch size and dropout, in one process, and take turns; medians over the rounds count. "qvtune" is
`qvtune train`, "plain" the same with `--no-fast`, "peft" Trainer with PEFT, which groups by length and pads to the
batch.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
WAYS = ("peft", "plain", "qvtune")
PRECISIONS = ("fp32", "bf16")
MODELS = {"MiniLM": ("pkg:minilm", ["query", "value"]), "SmolLM2-135M": ("pkg:smollm2", ["q_proj", "v_proj"])}
DATA = "pkg:rotten_tomatoes"
MOST_SECONDS = 540
BATCH, RANK, LR, DROPOUT, MAX_LENGTH = 32, 8, 4e-4, 0.0, 128


@dataclass
class Clock:
    """When the first and the last step of a training ended, and the most memory in between."""

    device: Any
    ends: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    def step_has_ended(self, step: int, steps: int) -> None:
        """Note the end of the first step and of the last."""
        import torch

        if step in (1, steps):
            if self.device.type == "cuda":
                torch.cuda.synchronize()  # its steps are still under way when the call returns
                self.peak_bytes = torch.cuda.max_memory_allocated()
            self.ends.append(time.perf_counter())

    def callback(self) -> Any:
        """Return a callback of qvtune that keeps the time."""
        import qvtune

        clock = self

        class Watch(qvtune.Callback):
            def on_step_end(self, progress: Any) -> None:
                clock.step_has_ended(progress.step, progress.steps)

        return Watch()

    def trainer_callback(self) -> Any:
        """Return a callback of transformers that keeps the time."""
        from transformers import TrainerCallback

        clock = self

        class Watch(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                clock.step_has_ended(state.global_step, state.max_steps)

        return Watch()

    @property
    def seconds(self) -> float:
        """From the end of the first step, which also allocates, to that of the last."""
        return self.ends[-1] - self.ends[0]


def configuration(model: str, data: str, precision: str, examples: int, out: Path) -> Any:
    """Return the options that all ways follow: one pass over the examples."""
    from qvtune.training.config import make_config

    return make_config(
        {
            "model": model, "data": data, "max_train_samples": examples, "max_eval_samples": 64, "epochs": 1,
            "max_length": MAX_LENGTH, "batch_size": BATCH, "lr": LR, "lr_ratio": 1.0, "rank": RANK, "alpha": RANK,
            "dropout": DROPOUT, "precision": precision, "keep_best": False, "out": str(out),
        }
    )  # fmt: skip


def measure(way: str, config: Any, targets: Sequence[str]) -> dict[str, Any]:
    """Train once, and return samples per second and the most memory of the device."""
    from qvtune.device import choose_device
    from qvtune.training.environment import reset_peak_memory

    clock = Clock(choose_device(config.device))
    reset_peak_memory()
    samples = train_peft(config, targets, clock) if way == "peft" else train_qvtune(way, config, clock)
    # The first step is not timed.
    return {"samples_per_second": (samples - BATCH) / clock.seconds, "peak_bytes": clock.peak_bytes}


def train_qvtune(way: str, config: Any, clock: Clock) -> int:
    """Train as `qvtune train` does, and return the number of examples."""
    from rich.console import Console

    from qvtune.training.run import run

    config = config.model_copy(update={"fast": way == "qvtune"})
    return int(run(config, Console(quiet=True), callbacks=[clock.callback()])["train_examples"])


def train_peft(config: Any, targets: Sequence[str], clock: Clock) -> int:
    """Train by Trainer and PEFT, and return the number of examples."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed
    from transformers.trainer_callback import PrinterCallback

    from qvtune.training.model import load_model
    from qvtune.training.prepare import read_inputs

    inputs = read_inputs(config)
    set_seed(config.seed)
    model = load_model(inputs.source, inputs.model_config, inputs.data.task, inputs.tokenizer)
    adapters = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=RANK, lora_dropout=DROPOUT, target_modules=list(targets)
    )
    arguments = TrainingArguments(
        output_dir=str(config.out), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=LR,
        report_to="none", disable_tqdm=True, save_strategy="no", eval_strategy="no", logging_steps=config.logging_steps,
        seed=0, bf16=config.precision == "bf16", train_sampling_strategy="group_by_length",
        use_cpu=clock.device.type == "cpu", dataloader_pin_memory=clock.device.type == "cuda",
    )  # fmt: skip
    trainer = Trainer(
        model=get_peft_model(model, adapters), args=arguments, train_dataset=inputs.train,
        processing_class=inputs.tokenizer, data_collator=DataCollatorWithPadding(inputs.tokenizer),
        callbacks=[clock.trainer_callback()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return len(inputs.train)


def measure_all(
    models: dict[str, tuple[str, list[str]]], data: str, examples: int, rounds: int, end: float = math.inf
) -> Iterator[list[dict[str, Any]]]:
    """Yield after every round a row for each model, precision and way: medians so far. The ways take turns.

    After the first round, none is begun that would last beyond `end`, in seconds of `time.perf_counter`, if it took as
    long as the longest so far.
    """
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    longest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            start = time.perf_counter()
            if turn and start + longest > end:
                break
            for name, precision, way in product(models, PRECISIONS, WAYS):
                model, targets = models[name]
                out = Path(folder) / f"{name}-{precision}-{turn}-{way}"
                measured = measure(way, configuration(model, data, precision, examples, out), targets)
                found[name, precision, way].append(measured)
                print(name, precision, way, measured, file=sys.stderr)
            longest = max(longest, time.perf_counter() - start)
            yield [
                {"model": name, "precision": precision, "way": way, **middle(each)}
                for (name, precision, way), each in found.items()
            ]


def middle(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median speed, its lowest and highest, the most memory, and how many rounds that is of."""
    speeds = [one["samples_per_second"] for one in found]
    peaks = [one["peak_bytes"] for one in found if one["peak_bytes"] is not None]
    return {
        "samples_per_second": statistics.median(speeds),
        "lowest": min(speeds),
        "highest": max(speeds),
        "peak_bytes": max(peaks, default=None),
        "rounds": len(found),
    }


def save_as_folder(name: str, folder: Path) -> str:
    """Save a packaged model as a folder, which is read faster than a GGUF file, and return its path."""
    from transformers import AutoModel, GgufConfig

    from qvtune.training.model import find_model, load_config, load_tokenizer

    source = find_model(name)
    if "gguf_file" not in source.options:
        return name
    load_tokenizer(source, load_config(source)).save_pretrained(folder)
    plain = GgufConfig(dequantize=True)
    model = AutoModel.from_pretrained(source.location, quantization_config=plain, dtype="float32", **source.options)
    model.save_pretrained(folder)
    return str(folder)


def run_tests(folder: Path) -> list[dict[str, str]]:
    """Run the tests marked `gpu` in a process of their own, and return them with what came of each."""
    report = folder / "tests.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "4",
        "-m",
        "gpu",
        "tests/gpu",
        f"--junitxml={report}",
        "--tb=short",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, check=False)
    if not report.is_file():
        raise SystemExit(f"error: pytest ended with {done.returncode} and left no report.")
    return read_report(report)


def read_report(path: Path) -> list[dict[str, str]]:
    """Return name, result and message of every test of a report in JUnit's format."""
    found = []
    for case in ET.parse(path).getroot().iter("testcase"):
        problem = next(
            (case.find(kind) for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None
        )
        kind = {None: "passed", "failure": "failed", "error": "failed"}.get(getattr(problem, "tag", None), "skipped")
        message = "" if problem is None else (problem.get("message") or "").splitlines()[:1]
        found.append({"name": str(case.get("name")), "result": kind, "message": "".join(message)})
    return found


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the speeds as a Markdown table, each way's beside its multiple of PEFT's."""
    lines = ["| model | precision | way | samples/s | lowest to highest | times PEFT | peak memory, MiB |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    base = {(row["model"], row["precision"]): row["samples_per_second"] for row in rows if row["way"] == "peft"}
    for row in rows:
        speed, memory = row["samples_per_second"], row["peak_bytes"]
        cells = [row["model"], row["precision"], row["way"], f"{speed:,.0f}"]
        cells.append(f"{row['lowest']:,.0f} to {row['highest']:,.0f}")
        cells.append(f"{speed / base[row['model'], row['precision']]:.2f}")
        cells.append("" if memory is None else f"{memory / 2**20:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tests_text(tests: Sequence[dict[str, str]]) -> str:
    """Return how many tests passed, failed and were skipped, and those that did not pass."""
    counts = Counter(test["result"] for test in tests)
    lines = [", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "failed", "skipped")) + "."]
    others = [test for test in tests if test["result"] != "passed"]
    if others:
        lines += ["", "| test | result | message |", "| --- | --- | --- |"]
        lines += [f"| {cell(t['name'])} | {t['result']} | {cell(t['message'])} |" for t in others]
    return "\n".join(lines)


def cell(text: str) -> str:
    """Return a text as it can stand in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def page(numbers: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    about, accelerator = numbers["about"], numbers["about"]["accelerator"]
    versions = ", ".join(
        f"{name} {about['versions'][name]}" for name in ("torch", "transformers", "peft", "accelerate")
    )
    return "\n".join(
        [
            "# qvtune on a GPU",
            "",
            f"Printed by `benchmarks/gpu.py` (`make gpu`) on {accelerator['name']}, compute capability "
            f"{accelerator['capability']}, {accelerator['memory_bytes'] / 2**30:.0f} GiB, CUDA {accelerator['cuda']}; "
            f"{about['processor']}; {versions}. It took {numbers['seconds'] / 60:.1f} minutes.",
            "",
            "## Tests marked `gpu`",
            "",
            tests_text(numbers["tests"]),
            "",
            "## Speed",
            "",
            f"LoRA of rank {RANK} on query and value, and the head, {numbers['examples']:,} reviews of {DATA}, batches "
            f"of {BATCH}, median of rounds: {numbers['speed'][0]['rounds']}. peft is transformers' Trainer with PEFT, "
            "grouped by length; plain is `qvtune train --no-fast`; qvtune is `qvtune train`. Memory is the most that "
            "torch has allocated on the device.",
            "",
            speed_table(numbers["speed"]),
            "",
        ]
    )


def write(out: Path, numbers: dict[str, Any]) -> None:
    """Write the numbers so far and their page."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(numbers), encoding="utf-8")


def main() -> int:
    """Test, measure and write, where there is a device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/benchmarks/gpu", help="files without endings")
    parser.add_argument("--examples", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU alone"
        print(
            f"error: no CUDA device here (torch {torch.__version__}, {built}), so nothing was run and nothing written. "
            "docs/gpu.md says how to install torch for a GPU.",
            file=sys.stderr,
        )
        return 2

    from qvtune.device import choose_device
    from qvtune.training.environment import describe_environment
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tests = run_tests(Path(folder))
        models = {
            name: (save_as_folder(model, Path(folder) / name), targets) for name, (model, targets) in MODELS.items()
        }
        for _ in measure_all(models, DATA, 4 * BATCH, 1):
            pass  # the first steps of a process load and choose kernels
        numbers = {"about": describe_environment(choose_device("cuda")), "examples": args.examples, "tests": tests}
        for speed in measure_all(models, DATA, args.examples, args.rounds, started + MOST_SECONDS):
            numbers |= {"seconds": time.perf_counter() - started, "speed": speed}
            write(args.out, numbers)  # after every round, so that what stops it later costs no more than one
    print(page(numbers))
    return 1 if any(test["result"] == "failed" for test in tests) else 0


if __name__ == "__main__":
    sys.exit(main())
