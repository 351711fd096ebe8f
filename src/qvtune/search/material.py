"""What a search trains and judges by: batches of a configuration's examples."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from qvtune.errors import DataError
from qvtune.fast.batches import LengthBatches, TokenBatches, longest_first, token_lengths
from qvtune.search.bench import Batch
from qvtune.tasks.load import TUNING
from qvtune.tasks.task import Task
from qvtune.train.config import TrainConfig
from qvtune.train.loop import task_loss
from qvtune.train.run import Prepared
from qvtune.train.seeds import stream_seed

# The fewest examples that can judge a trial, and the fewest batches that can train one.
FEWEST_HELD_OUT, FEWEST_BATCHES = 32, 4


@dataclass(frozen=True)
class Material:
    """Training batches by pass, validation batches, and the loss and the judge of the task."""

    train: list[dict[str, Any]]
    lengths: np.ndarray
    validation: Sequence[Batch]
    task: Task
    config: TrainConfig
    collate: Callable[[list[dict[str, Any]]], Any]
    class_weights: list[float] | None

    def supply(self, number: int) -> Iterator[Batch]:
        """Yield full batches without end, in an order that the number of the pass gives."""
        for epoch in count():
            for chosen in self._batches(number, epoch):
                yield dict(self.collate([self.train[i] for i in chosen]))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of the task, the mean over the batch, weighted as the run's."""
        return task_loss(self.task, self.class_weights)(_outputs(model, batch), batch["labels"])

    def judge(self, model: nn.Module, batches: Sequence[Batch]) -> list[float]:
        """Return the loss of every example after the best affine map of the outputs."""
        found = [_outputs(model, batch)["logits"].float().cpu() for batch in batches]
        scores = torch.cat(found).numpy()
        if not np.isfinite(scores).all():
            return [np.inf]
        labels = torch.cat([batch["labels"].cpu() for batch in batches]).numpy()
        return self.task.fitted_losses(scores, labels).tolist()

    def _batches(self, number: int, epoch: int) -> list[list[int]]:
        seed, size = stream_seed(self.config.seed, "suggest") + number, self.config.batch_size
        if self.config.batch_tokens is not None:
            by_tokens = TokenBatches(self.lengths, self.config.batch_tokens, seed)
            by_tokens.set_epoch(epoch)
            return list(by_tokens)
        if self.config.fast:
            by_length = LengthBatches(self.lengths, size, seed)
            by_length.set_epoch(epoch)
            order = list(by_length)
        else:
            order = np.random.default_rng((seed, epoch)).permutation(len(self.lengths)).tolist()
        # The last batch is not full, and its loss would be of other examples' number.
        return [order[i : i + size] for i in range(0, len(order) - size + 1, size)]


def make_material(config: TrainConfig, prepared: Prepared, most: int) -> Material:
    """Return what a search of a prepared run works with.

    Args:
        config: the run's, with a held-out part of the training examples.
        prepared: the run.
        most: how many held-out examples may judge.

    Raises:
        DataError: if there are too few examples to train or to judge by.
    """
    held_out = prepared.splits[TUNING]
    batches = len(prepared.train) // config.batch_size if config.batch_tokens is None else FEWEST_BATCHES
    if len(held_out) < FEWEST_HELD_OUT or batches < FEWEST_BATCHES:
        raise DataError(
            f"{config.data}: leaves {len(prepared.train)} examples to train on, {batches} batches of "
            f"{config.batch_size}, and {len(held_out)} to judge rates by; a search needs {FEWEST_BATCHES} batches and "
            f"{FEWEST_HELD_OUT} examples. Give more data, a lower --batch-size, a higher --tune-fraction or rates."
        )
    generator = np.random.default_rng(stream_seed(config.seed, "suggest"))
    chosen = held_out.select(np.sort(generator.permutation(len(held_out))[:most]))
    collate = prepared.data.task.collator(prepared.tokenizer)
    columns = [
        name for name in prepared.train.column_names if name in (*prepared.tokenizer.model_input_names, "labels")
    ]
    rows = _rows(longest_first(chosen)[0], columns)
    size = config.batch_size
    validation = [dict(collate(rows[start : start + size])) for start in range(0, len(rows), size)]
    train, lengths = _rows(prepared.train, columns), token_lengths(prepared.train)
    return Material(train, lengths, validation, prepared.data.task, config, collate, prepared.class_weights)


def _rows(dataset: Dataset, columns: list[str]) -> list[dict[str, Any]]:
    return dataset.select_columns(columns).to_list()


def _outputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"logits": model(**{name: value for name, value in batch.items() if name != "labels"})["logits"]}
