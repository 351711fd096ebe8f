"""`prepare`: what a run needs before its first step, checked: data, tokens, the adapted model, its plan and head."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from datasets import Dataset
from rich.console import Console
from torch import nn
from transformers import PreTrainedTokenizerBase, set_seed

from qvtune.data.tokens import count_cut, token_lengths, unknown_share
from qvtune.device import choose_device, place
from qvtune.errors import ConfigError, DataError, ModelError, nearest
from qvtune.fast.fast_path import make_fast
from qvtune.fast.precision import resolve_precision
from qvtune.methods.heads import newly_initialised
from qvtune.methods.table import METHODS
from qvtune.tasks.examples import TextData
from qvtune.tasks.load import load_data
from qvtune.tasks.weights import class_weights, describe_weights
from qvtune.training.batches import Collate, collate_rows, read_columns
from qvtune.training.config import TrainConfig
from qvtune.training.model import (
    ModelSource,
    checkpoint_activations,
    find_model,
    load_config,
    load_model,
    load_tokenizer,
    match_labels,
    text_length,
)
from qvtune.training.plan import Plan, adapt_for, make_plan
from qvtune.training.readable import check_readable
from qvtune.training.seeds import stream_seed
from qvtune.training.start.head import HeadStart, start_head
from qvtune.training.timetable import count_steps

# Shares of unknown tokens from which training makes no sense, and from which a note is added.
MOST_UNKNOWN = 0.9
MANY_UNKNOWN = 0.1


@dataclass(frozen=True)
class Prepared:
    """What a run needs before its first step.

    Attributes:
        model: adapted, on its device.
        precision: "fp32", "bf16" or "fp16".
        train, splits: tokens: what the model is given, and the labels.
        collate: makes a batch of rows.
        train_collate: the same for training batches, which may be packed.
    """

    source: ModelSource
    data: TextData
    tokenizer: PreTrainedTokenizerBase
    model: nn.Module
    device: torch.device
    precision: str
    plan: Plan
    train: Dataset
    splits: dict[str, Dataset]
    collate: Collate
    train_collate: Collate
    notes: tuple[str, ...]
    class_weights: list[float] | None
    head_start: HeadStart


@dataclass(frozen=True)
class Inputs:
    """What a run reads, apart from the weights: tokens by set, and notes about the data."""

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
        """The number of tokens of the longest training text."""
        return int(token_lengths(self.train).max())


def read_inputs(config: TrainConfig) -> Inputs:
    """Read and check the data and the tokenizer, and tokenise the texts or take their tokens from the cache."""
    resolve_precision(config.precision, choose_device(config.device))
    check_trackers(config.report_to)
    source = find_model(config.model, config.trust_remote_code)
    model_config = load_config(source)
    tokenizer = load_tokenizer(source, model_config)
    data = match_labels(source, model_config, load_data(config, config.seed), new_head=config.new_head)
    max_length = text_length(config.max_length, model_config, tokenizer, most=data.task.most_tokens)
    weights = class_weights(config.class_weights, data.task, data.train["label"])
    fitted = data.task.fit_tokenizer(tokenizer)
    train = data.task.encode(data.train, tokenizer, max_length)
    splits = {name: data.task.encode(dataset, tokenizer, max_length) for name, dataset in data.evaluation.items()}
    cut = count_cut(train, max_length) if data.task.cuts_texts else 0
    train, left_out = data.task.learnable(train, max_length)
    notes = [*data.notes, *fitted, *left_out, *check_known(unknown_share(train, tokenizer), source.name)]
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
    device = choose_device(config.device)
    precision = resolve_precision(config.precision, device)
    collate, packer = data.task.collator(tokenizer), data.task.packer(tokenizer)
    if config.packing and packer is None:
        raise ConfigError(f"--packing is for conversations and completions, and {data.task.name} is {data.task.noun}.")
    names = tokenizer.model_input_names
    train = read_columns(inputs.train, data.task, names)
    splits = {split: read_columns(tokens, data.task, names) for split, tokens in inputs.splits.items()}
    model, new = _load(config, inputs, device, {"train": train, **splits})
    batches = _first_batches(config, train, collate, inputs.longest)
    model = adapt_for(config, model, total_steps=count_steps(config, len(train)), batches=batches)
    for peft_config in getattr(model, "peft_config", {}).values():
        peft_config.base_model_name_or_path = source.location
    plan = make_plan(model, config, inputs.longest)
    if config.fast:
        model = make_fast(model, precision=precision)
    if config.packing and (problem := data.task.packing_problem(model)):
        raise ModelError(f"{source.name}: {problem}")
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    # A resumed run needs this too: how far weights have moved is measured from where they started.
    started = start_head(
        model,
        data.task,
        train,
        splits,
        tokenizer,
        kind=config.head_start,
        new=new,
        batch_size=config.eval_batch_size,
        seed=stream_seed(config.seed, "probe"),
        precision=precision,
        class_weights=inputs.class_weights,
        console=console,
    )
    return Prepared(
        source=source,
        data=data,
        tokenizer=tokenizer,
        model=model,
        device=device,
        precision=precision,
        plan=plan,
        train=train,
        splits=splits,
        collate=collate,
        train_collate=packer if config.packing and packer else collate,
        notes=(*inputs.notes, *data.task.describe_tokens(inputs.train, tokenizer)),
        class_weights=inputs.class_weights,
        head_start=started,
    )


def _load(
    config: TrainConfig, inputs: Inputs, device: torch.device, sets: dict[str, Dataset]
) -> tuple[nn.Module, set[str]]:
    """Return the model on its device, checked against its tokens, and the names of what its checkpoint lacks."""
    source, task, tokenizer = inputs.source, inputs.data.task, inputs.tokenizer
    set_seed(stream_seed(config.seed, "init"))
    model = load_model(source, inputs.model_config, task, tokenizer, new_head=config.new_head)
    new = newly_initialised(model)
    model = place(model, device)
    check_readable(source.name, model, tokenizer, sets)
    if problem := task.model_problem(model):
        raise ModelError(f"{source.name}: {problem}")
    return model, new


def _first_batches(config: TrainConfig, train: Dataset, collate: Collate, longest: int) -> list[dict[str, Any]] | None:
    """Return the batches of training examples that the method needs before training, or None if it needs none.

    They have their own random stream, so that they change nothing else in a run.
    """
    count = METHODS[config.method].batches
    if not count:
        return None
    generator = np.random.default_rng(stream_seed(config.seed, "batches"))
    size = config.batch_size if config.batch_tokens is None else max(1, config.batch_tokens // longest)
    rows = train.select(generator.permutation(len(train))[: count * size].tolist()).to_list()
    return collate_rows(rows, collate, size)


def check_known(unknown: float, model: str) -> list[str]:
    """Return a sentence if many tokens of the training texts are unknown to the tokenizer.

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
    """Check that every tracker is one of Accelerate's and installed.

    Raises:
        ConfigError: naming the one that is not.
    """
    known, installed = list(LOGGER_TYPE_TO_CLASS), [str(name) for name in get_available_trackers()]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"--report-to: unknown tracker '{name}'.{nearest(name, known)} Known: {', '.join(known)}."
            )
        if name not in installed:
            raise ConfigError(
                f"--report-to: the tracker '{name}' is not installed. Install it with: pip install {name}"
            )
