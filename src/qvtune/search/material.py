"""The batches that a search trains on and compares trials by, from a configuration's examples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from torch import nn

from qvtune.data.tokens import token_lengths
from qvtune.errors import DataError
from qvtune.fast.batches import longest_first
from qvtune.tasks.examples import TUNING
from qvtune.tasks.task import Task
from qvtune.training.batches import Collate, collate_rows, training_order
from qvtune.training.config import TrainConfig
from qvtune.training.evaluate import evaluate
from qvtune.training.objective import Batch, TaskObjective
from qvtune.training.prepare import Prepared
from qvtune.training.seeds import stream_seed

# The fewest examples to evaluate a trial on, and the fewest batches to train one on.
FEWEST_HELD_OUT, FEWEST_BATCHES = 32, 4


@dataclass(frozen=True)
class Material:
    """Training batches by pass, validation batches, and the objective and the validation losses of the task."""

    train: list[dict[str, Any]]
    lengths: np.ndarray
    validation: Sequence[Batch]
    task: Task
    config: TrainConfig
    collate: Collate
    objective: TaskObjective

    def supply(self, number: int) -> Iterator[Batch]:
        """Yield full batches without end, in an order fixed by the number of the pass."""
        config = self.config
        order = training_order(self.lengths, config, stream_seed(config.seed, "suggest") + number)
        for epoch in count():
            for chosen in order.epoch(epoch):
                # The last batch may have fewer examples, so its loss would not compare with the others.
                if config.batch_tokens is not None or len(chosen) == config.batch_size:
                    yield dict(self.collate([self.train[i] for i in chosen]))

    def validation_losses(self, model: nn.Module, batches: Sequence[Batch]) -> list[float]:
        """Return the loss of every example after the best affine map of the outputs."""
        scores = np.concatenate(evaluate(model, self.task, batches))
        if not self.task.is_finite(scores):
            return [np.inf]
        labels = self.task.label_array([row for batch in batches for row in batch["labels"].cpu().numpy()])
        return self.task.fitted_losses(scores, labels).tolist()


def make_material(config: TrainConfig, prepared: Prepared, most: int) -> Material:
    """Return the batches for the search of a prepared run.

    Args:
        config: the run's, with a held-out part of the training examples.
        prepared: the run.
        most: the largest number of held-out examples to evaluate trials on.

    Raises:
        DataError: if there are too few examples to train on or to evaluate on.
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
    rows = longest_first(chosen)[0].to_list()
    return Material(
        train=prepared.train.to_list(),
        lengths=token_lengths(prepared.train),
        validation=collate_rows(rows, prepared.collate, config.batch_size),
        task=prepared.data.task,
        config=config,
        collate=prepared.collate,
        objective=TaskObjective(prepared.data.task, prepared.class_weights),
    )
