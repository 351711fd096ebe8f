"""What a method is told before the first step: how many steps there are, and some batches."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from qvtune.methods.table import METHODS
from qvtune.tasks.load import TUNING
from qvtune.tasks.task import Task
from qvtune.train.config import TrainConfig
from qvtune.train.seeds import stream_seed

# Examples from which on the best of several checkpoints is told from the luckiest.
FEWEST_TO_CHOOSE = 50
# Evaluations of a run that is not told how often.
EVALUATIONS = 10
# Epochs of a run that is not told how many.
FEWEST_PASSES, MOST_PASSES = 3, 30


def first_batches(
    config: TrainConfig, task: Task, train: Dataset, tokenizer: PreTrainedTokenizerBase, longest: int
) -> list[Any] | None:
    """Return the batches of training examples that the method looks at beforehand, or None where it does not.

    They are drawn by a stream of their own, so that nothing else of a run changes with them.
    """
    count = METHODS[config.method].batches
    if not count:
        return None
    generator = np.random.default_rng(stream_seed(config.seed, "batches"))
    size = config.batch_size if config.batch_tokens is None else max(1, config.batch_tokens // longest)
    chosen = generator.permutation(len(train))[: count * size]
    columns = [name for name in train.column_names if name in (*tokenizer.model_input_names, "labels")]
    rows = train.select_columns(columns).select(chosen.tolist()).to_list()
    collate = task.collator(tokenizer)
    return [dict(collate(rows[start : start + size])) for start in range(0, len(rows), size)]


def count_steps(config: TrainConfig, examples: int) -> int:
    """Return the steps of a run in one process; the trainer knows better once it has its batches."""
    batches = math.ceil(examples / config.batch_size)
    return config.max_steps or math.ceil(count_passes(config, examples) * math.ceil(batches / config.accumulation))


def epochs_between_evaluations(passes: float) -> int:
    """Return after how many epochs each a run evaluates that is not told how often."""
    return max(1, math.ceil(passes / EVALUATIONS))


def count_choosing(splits: Mapping[str, Dataset]) -> int:
    """Return how many examples choose the best checkpoint: those of the tuning set, or else of the first one."""
    return len(splits.get(TUNING, next(iter(splits.values()))))


def keeps_best(config: TrainConfig, choosing: int) -> bool:
    """Return whether a run ends with its best checkpoint, where so many examples choose it."""
    return choosing >= FEWEST_TO_CHOOSE if config.keep_best is None else config.keep_best


def count_passes(config: TrainConfig, examples: int) -> float:
    """Return the epochs of a run: as many as were asked for, or what this many training examples need.

    Few examples need more passes, many need fewer, with the square root of their number: ten for 1,000.
    """
    if config.epochs is not None:
        return config.epochs
    return float(min(MOST_PASSES, max(FEWEST_PASSES, round(10 * math.sqrt(1_000 / examples)))))
