"""What a model writes for the examples of evaluation sets."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from datasets import Dataset
from rich.console import Console
from torch import nn
from transformers import PreTrainedTokenizerBase

from qvtune.progress import track
from qvtune.tasks.metrics import combine_splits
from qvtune.tasks.task import Task


def written_metrics(
    task: Task,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    splits: Mapping[str, Dataset],
    batch_size: int,
    most: int,
) -> dict[str, float]:
    """Return the metrics of what a model writes for the first examples of each set; several sets are also combined.

    Args:
        task: one that writes.
        model: on its device.
        tokenizer: the model's.
        splits: examples by set.
        batch_size: examples at a time.
        most: most examples of a set.
    """
    by_split = {}
    for split, dataset in splits.items():
        few = dataset.select(range(min(most, len(dataset))))
        by_split[split] = task.write_answers(model, tokenizer, few, batch_size, shown_as("writing"))
    return combine_splits(task, by_split)


def shown_as(what: str) -> Callable[[Iterable[Any], int], Iterable[Any]]:
    """Return a function that takes batches and their number, yields the batches and shows the progress."""
    return lambda batches, total: track(batches, total, what, Console(stderr=True), unit="batches")
