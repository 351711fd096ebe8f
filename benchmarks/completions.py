"""Completions learned by qvtune, beside TRL's SFTTrainer with PEFT, on the same tokens, steps and rates.

    python benchmarks/completions.py --data ARC-Easy --out docs/benchmarks/completions
    python benchmarks/completions.py --data GSM8K --questions 0 --out docs/benchmarks/completions_gsm8k

`--data` is a folder with train and test as .json (a list of objects) or .jsonl, in one of the forms that qvtune reads.
Both ways train LoRA of one rate for all roles on pkg:smollm2, in the precision that qvtune chooses, with the loss of
completions alone and without dropout. TRL draws its own order of the examples: several seeds show what that is worth.
For the first seed it is also given the batches of qvtune, step by step, so that the losses of a step can be compared.
Every measurement is a process of its own, and the ways take turns. Time is that of the median step, memory the
process's peak. The answers of all are written by the same greedy decoding. TRL is in the extra `bench`.
"""

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import write_results

MODEL = "pkg:smollm2"
TRL, SAME, OWN = "TRL", "TRL, the same batches", "qvtune"
WAYS = (TRL, SAME, OWN)
LAYERS = {
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "g": "gate_proj", "u": "up_proj", "d": "down_proj"
}  # fmt: skip
RANK, ALPHA, LR = 8, 8.0, 1e-3
# Steps whose time is not counted: memory is allocated and kernels are chosen.
WARM_UP = 3
FIRST, LAST = 10, 10


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """Read train or test from a folder."""
    if (folder / f"{name}.json").is_file():
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def options_of(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Write the data as JSONL, and return the options of a run on them."""
    for name in ("train", "test"):
        lines = (json.dumps(row) + "\n" for row in rows_of(args.data, name))
        (place / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return {
        "model": MODEL, "data": str(place / "train.jsonl"), "validation": str(place / "test.jsonl"),
        "task_type": "completion", "answer_pattern": args.pattern, "max_new_tokens": args.max_new_tokens,
        "max_eval_samples": args.held_out, "max_length": args.max_length, "roles": args.roles, "rank": RANK,
        "alpha": ALPHA, "dropout": 0.0, "lr": LR, "lr_ratio": 1.0, "schedule": "linear", "max_steps": args.steps,
        "batch_size": args.batch_size, "eval_steps": args.steps, "logging_steps": 1, "log_updates": False,
        "keep_best": False, "seed": args.seed, "out": str(place / "run"),
    }  # fmt: skip


def train_by_qvtune(options: dict[str, Any]) -> dict[str, Any]:
    """Train, and return the model with what was measured."""
    import qvtune

    run = qvtune.train(options)
    records = [json.loads(line) for line in (run.folder.path / "metrics.jsonl").read_text().splitlines()]
    logged = [record for record in records if "loss" in record]
    return {
        "model": run.model, "tokenizer": run.tokenizer, "losses": [record["loss"] for record in logged],
        "moments": [record["seconds"] for record in logged],
    }  # fmt: skip


def train_by_trl(options: dict[str, Any], same_batches: bool) -> dict[str, Any]:
    """Train with SFTTrainer on the tokens that qvtune makes, and return the model with what was measured."""
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from qvtune.device import choose_device
    from qvtune.fast.batches import token_lengths
    from qvtune.fast.precision import resolve_precision
    from qvtune.training.batches import training_order
    from qvtune.training.config import make_config
    from qvtune.training.model import load_model
    from qvtune.training.prepare import read_inputs
    from qvtune.training.seeds import stream_seed

    config = make_config(options)
    inputs = read_inputs(config)
    model = load_model(inputs.source, inputs.model_config, inputs.data.task, inputs.tokenizer)
    targets = [LAYERS[role] for role in config.roles]
    order = training_order(token_lengths(inputs.train), config, stream_seed(config.seed, "order"))
    moments, losses, started = [], [], time.perf_counter()

    class Clock(TrainerCallback):
        """Keeps the loss of every step and its time."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            """Take the loss."""
            if "loss" in logs:
                losses.append(float(logs["loss"]))
                moments.append(time.perf_counter() - started)

    class GivenOrder(SFTTrainer):
        """Takes the batches of qvtune, epoch by epoch."""

        def _get_train_sampler(self, *args: Any) -> list[int]:
            """Return the order of all epochs of this training."""
            epochs = -(-config.max_steps // len(order))
            return [i for epoch in range(epochs) for batch in order.epoch(epoch) for i in batch]

    trainer = (GivenOrder if same_batches else SFTTrainer)(
        model=model,
        args=SFTConfig(
            output_dir=str(Path(options["out"])), max_steps=config.max_steps, learning_rate=config.lr,
            per_device_train_batch_size=config.batch_size, lr_scheduler_type=config.schedule, logging_steps=1,
            logging_nan_inf_filter=False, report_to=[], save_strategy="no", seed=config.seed,
            max_length=config.max_length,
            use_cpu=choose_device("auto").type == "cpu",
            bf16=resolve_precision("auto", choose_device("auto")) == "bf16", max_grad_norm=config.max_grad_norm,
            gradient_checkpointing=False, weight_decay=0.0, disable_tqdm=True,
        ),
        train_dataset=inputs.train,
        processing_class=inputs.tokenizer,
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
        ),
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    return {"model": trainer.model, "tokenizer": inputs.tokenizer, "losses": losses, "moments": moments}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train one way, or not at all, in this process, and evaluate."""
    from qvtune.training.batches import EvaluationBatches
    from qvtune.training.config import make_config
    from qvtune.training.inference import evaluate_set
    from qvtune.training.prepare import read_inputs

    with tempfile.TemporaryDirectory() as folder:
        options = options_of(args, Path(folder))
        config = make_config(options)
        if args.measure == "before":
            from qvtune.training.model import load_model

            inputs = read_inputs(config)
            model = load_model(inputs.source, inputs.model_config, inputs.data.task, inputs.tokenizer)
            found: dict[str, Any] = {"model": model.eval(), "tokenizer": inputs.tokenizer, "losses": [], "moments": []}
        else:
            found = train_by_qvtune(options) if args.measure == OWN else train_by_trl(options, args.measure == SAME)
            inputs = read_inputs(config)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        task, model, tokenizer = inputs.data.task, found["model"].float().eval(), found["tokenizer"]
        batches = EvaluationBatches(inputs.splits["validation"], task.collator(tokenizer), 16)
        scores = evaluate_set(model, task, batches)
        answers = {}
        if args.questions:
            test = inputs.data.evaluation["validation"]
            few = test.select(range(min(args.questions, len(test))))
            answers = task.write_answers(model, tokenizer, few, 16)
    steps = [after - before for before, after in zip(found["moments"], found["moments"][1:], strict=False)]
    return {
        "losses": found["losses"], "step_seconds": statistics.median(steps[WARM_UP:] or steps or [0.0]),
        "peak_mib": peak, "held_out_loss": task.mean_loss(scores, scores), **answers,
    }  # fmt: skip


def run_apart(way: str, seed: int, words: list[str]) -> dict[str, Any]:
    """Measure in a process of its own."""
    line = [sys.executable, __file__, *words, "--measure", way, "--seed", str(seed)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way}, seed {seed}:\n{done.stderr[-3000:]}")
    return json.loads(re.findall(r"^\{.*\}$", done.stdout, re.MULTILINE)[-1])


def mean_of(found: list[dict[str, Any]], name: str) -> float:
    """Return the mean over seeds."""
    return statistics.mean(run[name] for run in found)


def curve(found: list[dict[str, Any]], part: slice) -> str:
    """Return the mean loss of a part of the steps, by seed."""
    return ", ".join(f"{statistics.mean(run['losses'][part]):.4f}" for run in found)


def ratio(found: dict[str, list[dict[str, Any]]], rival: str) -> str:
    """Return time and memory of qvtune as multiples of a rival's, over the seeds of both."""
    own = found[OWN][: len(found[rival])]
    times, memory = (mean_of(own, name) / mean_of(found[rival], name) for name in ("step_seconds", "peak_mib"))
    return f"| qvtune / {rival} | {times:.2f} | {memory:.2f} |"


def page(found: dict[str, list[dict[str, Any]]], args: argparse.Namespace) -> str:
    """Return the tables."""
    seeds = args.seeds.split(",")
    lines = [
        f"{args.data.name}, {MODEL}, LoRA of rank {RANK} on {args.roles}, {args.steps} steps of {args.batch_size} "
        f"examples, rate {LR:g} for all roles, seeds {', '.join(seeds)}. {args.held_out} test examples are held out.",
        "",
        f"| | loss of the first {FIRST} steps, by seed | loss of the last {LAST}, by seed | held-out loss, by seed | "
        "answers right, by seed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for way, runs in found.items():
        losses = [curve(runs, slice(FIRST)), curve(runs, slice(-LAST, None))] if way in WAYS else ["", ""]
        held = ", ".join(f"{run['held_out_loss']:.4f}" for run in runs)
        right = ", ".join(f"{run['answer_accuracy']:.1%}" for run in runs if "answer_accuracy" in run)
        lines.append(f"| {way} | {losses[0]} | {losses[1]} | {held} | {right} |")
    lines += ["", "| | seconds of the median step | peak memory, MiB |", "| --- | --- | --- |"]
    lines += [
        f"| {way} | {mean_of(found[way], 'step_seconds'):.2f} | {mean_of(found[way], 'peak_mib'):,.0f} |"
        for way in found
        if way in WAYS
    ]
    lines += [ratio(found, rival) for rival in (TRL, SAME) if rival in found]
    pairs = list(zip(found[SAME][0]["losses"], found[OWN][0]["losses"], strict=True))
    apart = [abs(rival - own) for rival, own in pairs]
    lines += [
        "",
        f"On the same batches the losses of a step differ by {statistics.mean(apart):.4f} on average and "
        f"{max(apart):.4f} at most, over {len(pairs)} steps; that of the first step is {pairs[0][0]:.4f} by TRL and "
        f"{pairs[0][1]:.4f} by qvtune.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure all, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--roles", default="qv")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--questions", type=int, default=400, help="answers to write; 0 writes none")
    parser.add_argument("--pattern", default=None, help="as --answer-pattern of train")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--same-alone", action="store_true", help="leave out TRL with an order of its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", default=None)
    args = parser.parse_args()
    if args.measure is not None:
        print(json.dumps(measure(args)))
        return
    words, ways = sys.argv[1:], WAYS[1:] if args.same_alone else WAYS
    found: dict[str, list[dict[str, Any]]] = {"before": [run_apart("before", 0, words)], **{way: [] for way in ways}}
    for seed in map(int, args.seeds.split(",")):
        for way in ways:
            if way == SAME and found[SAME]:
                continue
            found[way].append(run_apart(way, seed, words))
            print(way, seed, {name: value for name, value in found[way][-1].items() if name != "losses"}, flush=True)
    text = page(found, args)
    print(text)
    if args.out is not None:
        write_results(args.out, f"Completions of {args.data.name}, beside TRL", text, {"runs": found})


if __name__ == "__main__":
    main()
