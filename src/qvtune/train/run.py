"""`run`: one configuration becomes one run folder."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerState, set_seed
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback

from qvtune.adaptation import adaptation_of, count_parameters, restore
from qvtune.adapters import ADAPTATION_FILE, loads_in_peft, save_adapter
from qvtune.data.tokens import count_cut, unknown_share
from qvtune.device import choose_device, place
from qvtune.errors import ConfigError, DataError, nearest
from qvtune.fast.fast_path import make_fast
from qvtune.fast.precision import resolve_precision
from qvtune.interrupts import answering_signals
from qvtune.methods.heads import newly_initialised
from qvtune.methods.table import METHODS
from qvtune.tasks.examples import TextData
from qvtune.tasks.files import file_digests
from qvtune.tasks.load import TUNING, load_data
from qvtune.tasks.weights import class_weights, describe_weights
from qvtune.train.balance import SideWatch
from qvtune.train.card import adapter_card
from qvtune.train.conclusion import conclude
from qvtune.train.config import TrainConfig
from qvtune.train.environment import describe_environment, is_main_process, peak_memory, reset_peak_memory
from qvtune.train.folder import RunFolder, staged_folder, write_json, write_text, writing
from qvtune.train.hardware import describe_hardware
from qvtune.train.loop import EarlyStopping, EveryFewEpochs, Measured, RunTrainer
from qvtune.train.model import (
    ModelSource,
    find_model,
    load_config,
    load_model,
    load_tokenizer,
    match_labels,
    text_length,
)
from qvtune.train.plan import Plan, adapt_for, make_plan
from qvtune.train.progress import ProgressReport
from qvtune.train.readable import check_readable
from qvtune.train.seeds import stream_seed
from qvtune.train.start.head import HeadStart, start_head
from qvtune.train.supplies import count_choosing, count_passes, count_steps, first_batches, keeps_best
from qvtune.train.trainer import TrainingArguments
from qvtune.train.verdict import OneClassWatch

# Shares of unknown tokens at which training makes no sense, and is remarked upon.
MOST_UNKNOWN = 0.9
MANY_UNKNOWN = 0.1

SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup", "cosine": "cosine"}


@dataclass(frozen=True)
class Prepared:
    """Everything of a run before its first step."""

    source: ModelSource
    data: TextData
    tokenizer: PreTrainedTokenizerBase
    model: nn.Module
    plan: Plan
    train: Dataset
    splits: dict[str, Dataset]
    notes: tuple[str, ...]
    class_weights: list[float] | None
    head_start: HeadStart


def run(
    config: TrainConfig,
    console: Console | None = None,
    on_prepared: Callable[[Prepared], None] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train as `config` says and return the contents of `result.json`.

    A run that was killed goes on from its last checkpoint; one that has finished is found and returned. Nothing is
    written before model and data have been loaded and checked.

    Args:
        config: every option.
        console: where progress goes; standard error when None.
        on_prepared: called once before the first step, with what will train.
        callbacks: of transformers, to watch the training; what they raise ends the run.

    Raises:
        QVTuneError: for anything wrong with options, data, model or folder; DivergedError if the loss stops being
            finite; Interrupted after SIGINT or SIGTERM, when the state has been saved.
    """
    console = console or Console(stderr=True)
    folder = RunFolder(config.out)
    folder.claim(config)
    if folder.is_finished:
        console.out(f"{folder.path} holds this run already, finished.", highlight=False)
        result = folder.read_result()
        for text in result.get("warnings", []):
            console.out(text, highlight=False)
        return result
    reset_peak_memory()
    prepared = prepare(config, console)
    if on_prepared is not None:
        on_prepared(prepared)
    if not is_main_process():
        return fit(config, prepared, folder, console, callbacks)
    with folder.locked():
        folder.claim(config)
        folder.compare_task(prepared.data.task.to_dict())
        _start_folder(folder, config, prepared)
        return fit(config, prepared, folder, console, callbacks)


@dataclass(frozen=True)
class Inputs:
    """What a run reads but for the weights: tokens by set, and what was remarked about the data."""

    source: ModelSource
    model_config: Any
    tokenizer: PreTrainedTokenizerBase
    data: TextData
    train: Dataset
    splits: dict[str, Dataset]
    notes: tuple[str, ...]
    class_weights: list[float] | None

    @cached_property
    def longest(self) -> int:
        """The tokens of the longest training text."""
        return max(map(len, self.train["input_ids"]))


def read_inputs(config: TrainConfig) -> Inputs:
    """Read and check the data and the tokenizer, and tokenise, or find the tokens in the cache."""
    resolve_precision(config.precision, choose_device(config.device))
    check_trackers(config.report_to)
    source = find_model(config.model, config.trust_remote_code)
    model_config = load_config(source)
    tokenizer = load_tokenizer(source, model_config)
    max_length = text_length(config.max_length, model_config, tokenizer)
    data = match_labels(source, model_config, load_data(config, config.seed), new_head=config.new_head)
    weights = class_weights(config.class_weights, data.task, data.train["label"])
    train = data.task.encode(data.train, tokenizer, max_length)
    splits = {name: data.task.encode(dataset, tokenizer, max_length) for name, dataset in data.evaluation.items()}
    cut = count_cut(train, max_length)
    notes = [*data.notes, *check_known(unknown_share(train, tokenizer), source.name)]
    if cut:
        notes.append(f"{cut / len(train):.0%} of the training texts fill {max_length} tokens (--max-length).")
    if weights is not None:
        notes.append(describe_weights(data.task, weights))
    return Inputs(source, model_config, tokenizer, data, train, splits, tuple(notes), weights)


def prepare(config: TrainConfig, console: Console | None = None) -> Prepared:
    """Load and check data, tokenizer and model, adapt the model and start its head.

    Args:
        config: every option.
        console: where progress goes; standard error when None.
    """
    inputs = read_inputs(config)
    source, tokenizer, data = inputs.source, inputs.tokenizer, inputs.data
    set_seed(stream_seed(config.seed, "init"))
    model = load_model(source, inputs.model_config, data.task, tokenizer, new_head=config.new_head)
    new = newly_initialised(model)
    model = place(model, choose_device(config.device))
    check_readable(source.name, model, tokenizer, {"train": inputs.train, **inputs.splits})
    batches = first_batches(config, data.task, inputs.train, tokenizer, inputs.longest)
    model = adapt_for(config, model, total_steps=count_steps(config, len(inputs.train)), batches=batches)
    for peft_config in getattr(model, "peft_config", {}).values():
        peft_config.base_model_name_or_path = source.location
    plan = make_plan(model, config, inputs.longest)
    precision = resolve_precision(config.precision, choose_device(config.device))
    if config.fast:
        model = make_fast(model, precision=precision)
    # Also of a run that goes on from a checkpoint: how far weights have moved is measured from where they started.
    started = start_head(
        model,
        data.task,
        inputs.train,
        inputs.splits,
        tokenizer,
        kind=config.head_start,
        new=new,
        batch_size=config.eval_batch_size,
        seed=stream_seed(config.seed, "probe"),
        precision=precision,
        class_weights=inputs.class_weights,
        console=console,
    )
    weights = inputs.class_weights
    return Prepared(source, data, tokenizer, model, plan, inputs.train, inputs.splits, inputs.notes, weights, started)


def fit(
    config: TrainConfig,
    prepared: Prepared,
    folder: RunFolder,
    console: Console,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train from the last checkpoint, or the start, to the end, and write the results."""
    metric = _selection_metric(config, prepared)
    arguments = training_arguments(config, folder, prepared)
    stopping = EarlyStopping(metric, config.early_stopping) if config.early_stopping else None
    clock = _MetricsFile(folder)
    pace = [] if config.eval_steps or config.max_steps else [EveryFewEpochs(arguments.num_train_epochs)]
    watch = OneClassWatch(prepared.data.task, config, console)
    if config.batch_tokens and arguments.world_size > 1:
        raise ConfigError(f"--batch-tokens is for one process, and here are {arguments.world_size}. Give --batch-size.")
    trainer = RunTrainer(
        task=prepared.data.task,
        class_weights=prepared.class_weights,
        batch_tokens=config.batch_tokens,
        log_updates=config.log_updates,
        choosing=0 if config.keep_best else count_choosing(prepared.splits),
        eval_dataset=prepared.splits,
        folder=folder,
        model=prepared.model,
        args=arguments,
        train_dataset=prepared.train,
        processing_class=prepared.tokenizer,
        data_collator=prepared.data.task.collator(prepared.tokenizer),
        callbacks=[SideWatch(config, console), watch, clock, *pace, *([stopping] if stopping else []), *callbacks],
    )
    progress = ProgressReport(console, _examples_per_step(config, trainer, len(prepared.train)))
    trainer.add_callback(progress)
    clock.trainer = watch.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    checkpoint = folder.last_checkpoint()
    if trainer.is_world_process_zero():
        folder.remove_unfinished()
    if checkpoint is not None:
        console.out(f"Going on from {checkpoint}.", highlight=False)
    try:
        with _stopping_on_signals(trainer, console):
            _train(trainer, checkpoint, stopping)
    finally:
        progress.close()
    measured = trainer.measure_final()
    result = _result(config, prepared, trainer, measured, metric, clock)
    found = conclude(config, prepared.data, measured, trainer.state.log_history, result.get("head_start"))
    result |= found.to_result()
    if trainer.is_world_process_zero():
        rates, is_plain = prepared.plan.learning_rates, loads_in_peft(trainer.model)
        card = adapter_card(config, prepared.data.task, rates, result["metrics"], is_plain)
        saved = save_trained(trainer.model, prepared.tokenizer, folder, card)
        result["saved_bytes"] = sum(file.stat().st_size for file in saved.glob("*.safetensors"))
        write_text(folder.mistakes, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.mistakes))
        for text in found.verdict.values():
            console.out(text, highlight=False)
        write_json(folder.result, result)
    return result


def _examples_per_step(config: TrainConfig, trainer: RunTrainer, examples: int) -> float:
    if config.batch_tokens is None:
        return config.batch_size * config.accumulation * trainer.args.world_size
    return examples / len(trainer.get_train_dataloader()) * config.accumulation


def training_arguments(config: TrainConfig, folder: RunFolder, prepared: Prepared) -> TrainingArguments:
    """Translate a configuration into the trainer's arguments."""
    strategy = "steps" if config.eval_steps else "epoch"
    device = choose_device(config.device)
    precision = resolve_precision(config.precision, device)
    arguments = TrainingArguments(
        output_dir=str(folder.checkpoints.absolute()),
        method=config.method,
        **_adapting(config),
        num_train_epochs=count_passes(config, len(prepared.train)),
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.eval_batch_size,
        gradient_accumulation_steps=config.accumulation,
        weight_decay=config.weight_decay,
        lr_scheduler_type=SCHEDULES[config.schedule],
        warmup_steps=config.warmup,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        **_checkpointing(config.gradient_checkpointing),
        use_cpu=device.type == "cpu",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        fast=config.fast,
        seed=stream_seed(config.seed, "dropout"),
        data_seed=stream_seed(config.seed, "order"),
        eval_strategy=strategy,
        save_strategy=strategy,
        eval_steps=config.eval_steps,
        save_steps=config.eval_steps or 500,
        save_total_limit=2,
        load_best_model_at_end=keeps_best(config, count_choosing(prepared.splits)),
        metric_for_best_model=_selection_metric(config, prepared),
        greater_is_better=True,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=config.report_to or "none",
        dataloader_num_workers=config.num_workers,
        remove_unused_columns=True,
        dataloader_pin_memory=device.type == "cuda",
        include_num_input_tokens_seen="no",
        restore_callback_states_from_checkpoint=False,
    )
    # A process has one device; transformers would copy the model to all that are there and share out each batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _adapting(config: TrainConfig) -> dict[str, Any]:
    """Return what the trainer is told of the method, its options and its rates."""
    rates = config.rates
    ratio = config.b_lr_ratio if "b_lr_ratio" in METHODS[config.method].defaults else None
    options = {name: value for name, value in config.method_options.items() if value is not None}
    return options | {"learning_rate": rates.pop("lr"), "b_lr_ratio": ratio, **rates}


def _checkpointing(wanted: bool) -> dict[str, Any]:
    # transformers 5.21 renamed gradient_checkpointing, and Python 3.10 ends at 5.20.
    name = next(n for n in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, n))
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}} if wanted else {}


def check_known(unknown: float, model: str) -> list[str]:
    """Return a sentence where many tokens of the training texts are unknown to the tokenizer.

    Raises:
        DataError: if nearly all are.
    """
    if unknown >= MOST_UNKNOWN:
        raise DataError(
            f"{unknown:.0%} of the tokens of the training texts are unknown to the tokenizer of {model}. Check that "
            "the tokenizer is the model's own and the texts are in a language that it knows."
        )
    return [f"{unknown:.0%} of the training tokens are unknown to {model}."] if unknown >= MANY_UNKNOWN else []


def check_trackers(names: list[str]) -> None:
    """Check that every tracker is one of transformers' and installed.

    Raises:
        ConfigError: naming the one that is not.
    """
    known, installed = list(INTEGRATION_TO_CALLBACK), get_available_reporting_integrations()
    for name in names:
        if name not in known:
            raise ConfigError(
                f"--report-to: unknown tracker '{name}'.{nearest(name, known)} Known: {', '.join(known)}."
            )
        if name not in installed:
            raise ConfigError(
                f"--report-to: the tracker '{name}' is not installed. Install it with: pip install {name}"
            )


def save_trained(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: RunFolder, card: str) -> Path:
    """Save the adapter with `card` as its README, or the whole model of a full training, and return the folder.

    The whole model is restored to its original shape, and is no longer adapted then.
    """
    adaptation = adaptation_of(model)
    assert adaptation is not None, "a run's model is adapted"
    is_adapter = METHODS[adaptation.method].saves == "adapter"
    target = folder.adapter if is_adapter else folder.model
    if target.exists():
        return target  # whole, since it appears by renaming: the run was killed after this and before its result
    with staged_folder(target) as staging:
        if is_adapter:
            save_adapter(model, staging)
            write_text(staging / "README.md", card)  # in place of PEFT's form to fill in
        else:
            restore(model).save_pretrained(str(staging))  # type: ignore[operator]
            write_json(staging / ADAPTATION_FILE, adaptation.to_dict())
        tokenizer.save_pretrained(str(staging))
    return target


def _train(trainer: RunTrainer, checkpoint: Path | None, stopping: EarlyStopping | None) -> None:
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step >= state.max_steps or (stopping is not None and stopping.is_due(state.log_history)):
            # It had come to its end and was killed before its result; another step would be one too many.
            trainer.resume_stopped(checkpoint, state)
            return
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)


def _start_folder(folder: RunFolder, config: TrainConfig, prepared: Prepared) -> None:
    write_text(folder.config, config.to_yaml())
    write_json(folder.environment, describe_environment(choose_device(config.device)) | {"seed": config.seed})
    files = file_digests(config)
    write_json(
        folder.plan,
        prepared.plan.to_dict()
        | {
            "task": prepared.data.task.to_dict(),
            "head_start": prepared.head_start.to_dict(),
            "epochs": count_passes(config, len(prepared.train)),
            "notes": prepared.notes,
            "files": files,
        },
    )


def _selection_metric(config: TrainConfig, prepared: Prepared) -> str:
    prefix = f"{TUNING}_" if config.tune_fraction else ""
    return f"eval_{prefix}{prepared.data.task.main_metric}"


def _result(
    config: TrainConfig,
    prepared: Prepared,
    trainer: RunTrainer,
    measured: Measured,
    metric: str,
    clock: "_MetricsFile",
) -> dict[str, Any]:
    counts = count_parameters(trainer.model)
    peak, whose = peak_memory(trainer.args.device)
    best = trainer.args.load_best_model_at_end and trainer.state.best_global_step
    return {
        "status": "finished",
        "task": prepared.data.task.name,
        "metrics": measured.metrics,
        "main_metric": prepared.data.task.main_metric,
        "checkpoint": {
            "step": trainer.state.best_global_step if best else trainer.state.global_step,
            "chosen": "best" if best else "last",
            "chosen_by": _chosen_by(trainer, metric) if best else None,
            "chosen_on": (TUNING if config.tune_fraction else "validation") if best else None,
        },
        "reported_on": [split for split in prepared.splits if split != TUNING],
        "train_loss": _mean_loss(trainer.state.log_history),
        "head_start": prepared.head_start.to_dict(),
        "hardware": describe_hardware(trainer.args.device, _precision(trainer.args), fast=config.fast),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "train_examples": len(prepared.train),
        "evaluation_examples": {split: len(dataset) for split, dataset in prepared.splits.items()},
        "device": str(trainer.args.device),
        "seconds": clock.seconds,
        "train_samples_per_second": _samples_per_second(trainer, clock, len(prepared.train)),
        "peak_memory_bytes": peak,
        "peak_memory_of": whose,
        "trainable_parameters": counts.by_role | {"head": counts.head, "total": counts.trainable},
        "total_parameters": counts.total,
        "seed": config.seed,
        "fingerprint": config.fingerprint(),
    }


def _chosen_by(trainer: RunTrainer, metric: str) -> str:
    name = metric.removeprefix("eval_")
    return f"the lowest loss within half a standard error of the best {name}" if trainer.choosing else name


def _precision(arguments: TrainingArguments) -> str:
    return "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "fp32"


def _samples_per_second(trainer: RunTrainer, clock: "_MetricsFile", examples: int) -> float | None:
    """Return the speed of this session's training steps, evaluations and checkpoints not counted."""
    seconds = clock.session_seconds - clock.session_aside_seconds
    samples = ((trainer.state.epoch or 0.0) - clock.first_epoch) * examples
    return samples / seconds if samples and seconds > 0 else None


def _mean_loss(history: list[dict[str, float]]) -> float | None:
    total, last = 0.0, 0.0
    for record in history:
        if "loss" in record:
            total += record["loss"] * (record["step"] - last)
            last = record["step"]
    return total / last if last else None


class _MetricsFile(TrainerCallback):
    """Writes `metrics.jsonl`, a line per logged step, and keeps the time: of all sessions, and of this one."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.trainer: RunTrainer | None = None
        self.seconds = self.session_seconds = self.session_aside_seconds = self.first_epoch = 0.0
        self._before = 0.0
        self._started = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()
        self._before = max((record.get("seconds", 0.0) for record in state.log_history), default=0.0)
        self.first_epoch = state.epoch or 0.0
        if state.is_world_process_zero:
            # Lines after the checkpoint that a killed run still wrote would come twice.
            write_text(self.folder.metrics, "".join(json.dumps(record) + "\n" for record in state.log_history))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = self._before + time.perf_counter() - self._started
        record = state.log_history[-1]
        record["seconds"] = round(self.seconds, 3)
        if state.is_world_process_zero:
            with writing(self.folder.metrics), open(self.folder.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session_seconds = time.perf_counter() - self._started
        self.session_aside_seconds = self.trainer.aside_seconds if self.trainer else 0.0


@contextmanager
def _stopping_on_signals(trainer: RunTrainer, console: Console) -> Iterator[None]:
    """Save and stop on the first SIGINT or SIGTERM; a second one ends at once."""

    def stop(number: int, frame: Any) -> None:
        if trainer.stop_requested:
            raise KeyboardInterrupt
        trainer.stop_requested = True
        console.out("Saving after this step, then stopping. Once more ends at once.", highlight=False)

    with answering_signals(stop):
        yield
