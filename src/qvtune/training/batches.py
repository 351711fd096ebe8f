"""Training batches, the same for the same seed and epoch, and evaluation batches, the longest texts first."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import DataLoader

from qvtune.fast.batches import LengthBatches, TokenBatches, longest_first
from qvtune.tasks.task import Task
from qvtune.training.objective import Batch
from qvtune.training.step import Share

Collate = Callable[[list[dict[str, Any]]], Any]


class Order:
    """The order of the examples: which of them form a batch, by epoch.

    Args:
        lengths: number of tokens of every example: (examples,).
        batch_size: examples per batch.
        batch_tokens: most tokens per batch, padding included; replaces the number of examples.
        by_length: put texts of similar length together.
        seed: the same seed and epoch give the same batches.
    """

    def __init__(
        self, lengths: ArrayLike, *, batch_size: int, batch_tokens: int | None, by_length: bool, seed: int
    ) -> None:
        self.size, self.seed, self.examples = batch_size, seed, len(np.asarray(lengths))
        self._by_tokens = TokenBatches(lengths, batch_tokens, seed) if batch_tokens is not None else None
        self._by_length = LengthBatches(lengths, batch_size, seed) if by_length else None

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return math.ceil(self.examples / self.size) if self._by_tokens is None else len(self._by_tokens)

    def epoch(self, number: int) -> list[list[int]]:
        """Return the batches of an epoch, counted from 0, as indices of examples; the last may be smaller."""
        if self._by_tokens is not None:
            self._by_tokens.set_epoch(number)
            return list(self._by_tokens)
        if self._by_length is not None:
            self._by_length.set_epoch(number)
            order = list(self._by_length)
        else:
            order = np.random.default_rng((self.seed, number)).permutation(self.examples).tolist()
        return [order[start : start + self.size] for start in range(0, self.examples, self.size)]


class TrainingBatches:
    """The forward passes of every step; with several processes, this process's share of them.

    Args:
        tokens: training examples.
        collate: makes a batch from rows.
        order: which examples form a batch; each batch is divided among the processes.
        accumulation: forward passes per step; the last step of an epoch may have fewer.
        process: number of this process.
        processes: number of processes.
        workers: processes that prepare batches.
        pin_memory: keep batches where a GPU can copy them from.
    """

    def __init__(
        self,
        tokens: Dataset,
        collate: Collate,
        order: Order,
        *,
        accumulation: int = 1,
        process: int = 0,
        processes: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.tokens, self.collate, self.order, self.accumulation = tokens, collate, order, accumulation
        self.process, self.processes = process, processes
        self._loading: dict[str, Any] = {"num_workers": workers, "pin_memory": pin_memory}
        self.steps_per_epoch = math.ceil(len(order) / accumulation)

    def after(self, step: int) -> Iterator[tuple[float, list[Share]]]:
        """Yield each step after `step`, without end: the epochs done with it, in fractions, and its passes."""
        epoch, done = divmod(step, self.steps_per_epoch)
        while True:
            batches = self.order.epoch(epoch)[done * self.accumulation :]
            passes: list[Share] = []
            for place, share in enumerate(self._load(batches), len(self.order) - len(batches) + 1):
                passes.append(share)
                if len(passes) == self.accumulation or place == len(self.order):
                    yield epoch + place / len(self.order), passes
                    passes = []
            epoch, done = epoch + 1, 0

    def _load(self, batches: Sequence[list[int]]) -> Iterator[Share]:
        shares = [np.array_split(np.asarray(batch), self.processes)[self.process].tolist() for batch in batches]
        # A share without an example gets one that does not count.
        indices = [share or batch[:1] for share, batch in zip(shares, batches, strict=True)]
        # The loader has its own generator: the global random state belongs to the model's dropout.
        generator = torch.Generator()
        loader = DataLoader(
            self.tokens, batch_sampler=indices, collate_fn=self.collate, generator=generator, **self._loading
        )
        for share, batch in zip(shares, loader, strict=True):
            yield Share(batch, counts=bool(share))


class EvaluationBatches:
    """A set's batches, longest texts first: little is padded, and a batch that does not fit in memory fails at once.

    Args:
        tokens: the examples.
        collate: makes a batch of rows.
        batch_size: examples per batch.
    """

    def __init__(self, tokens: Dataset, collate: Collate, batch_size: int) -> None:
        self.tokens, self.examples = tokens, len(tokens)
        self.batch_size, self.collate = batch_size, collate
        self._tokens, self._order = longest_first(tokens)

    def __len__(self) -> int:
        return math.ceil(self.examples / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.share(0, 1)

    def share(self, process: int, processes: int) -> Iterator[Batch]:
        """Yield the batches of one of several processes: number `process`, and every `processes`-th after it."""
        starts = range(process * self.batch_size, self.examples, processes * self.batch_size)
        indices = [list(range(start, min(start + self.batch_size, self.examples))) for start in starts]
        generator = torch.Generator()  # as in training: the global random state belongs to the model
        loader = DataLoader(self._tokens, batch_sampler=indices, collate_fn=self.collate, generator=generator)
        return iter(loader)

    def as_given(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values computed batch by batch, (examples, ...), in the order of the data."""
        result = np.empty_like(values)
        result[self._order] = values
        return result


def collate_rows(rows: list[dict[str, Any]], collate: Collate, batch_size: int) -> list[dict[str, Any]]:
    """Return rows as batches, in their order; the last may be smaller."""
    return [dict(collate(rows[start : start + batch_size])) for start in range(0, len(rows), batch_size)]


def read_columns(tokens: Dataset, task: Task, names: Sequence[str]) -> Dataset:
    """Return tokenised examples with the columns in `names`, which the model is given, and those of the task alone."""
    kept = (*names, "labels", *task.beside)
    return tokens.select_columns([name for name in tokens.column_names if name in kept])


def training_order(lengths: ArrayLike, config: Any, seed: int, processes: int = 1) -> Order:
    """Return the order that a configuration asks for; a batch holds the examples of all processes together."""
    return Order(
        lengths,
        batch_size=config.batch_size * processes,
        batch_tokens=config.batch_tokens,
        by_length=config.fast,
        seed=seed,
    )
