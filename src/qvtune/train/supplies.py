"""What a method is told before the first step: how many steps there are, and some batches."""

import math
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from qvtune.methods.table import METHODS
from qvtune.train.config import TrainConfig
from qvtune.train.seeds import stream_seed


def first_batches(config: TrainConfig, train: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[Any] | None:
    """Return the batches of training examples that the method looks at beforehand, or None where it does not.

    They are drawn by a stream of their own, so that nothing else of a run changes with them.
    """
    count = METHODS[config.method].batches
    if not count:
        return None
    generator = np.random.default_rng(stream_seed(config.seed, "batches"))
    size = config.batch_size if config.batch_tokens is None else max(1, config.batch_tokens // config.max_length)
    chosen = generator.permutation(len(train))[: count * size]
    columns = [name for name in train.column_names if name in (*tokenizer.model_input_names, "labels")]
    rows = train.select_columns(columns).select(chosen.tolist()).to_list()
    collate = DataCollatorWithPadding(tokenizer)
    return [dict(collate(rows[start : start + size])) for start in range(0, len(rows), size)]


def count_steps(config: TrainConfig, examples: int) -> int:
    """Return the steps of a run in one process; the trainer knows better once it has its batches."""
    passes = math.ceil(examples / config.batch_size)
    return config.max_steps or math.ceil(config.epochs * math.ceil(passes / config.accumulation))
