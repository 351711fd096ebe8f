"""Batches of texts of nearly equal length, so that little is padded."""

from collections.abc import Iterator

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

from qvtune.data.tokens import token_lengths

# How many batches are sorted by length together. More give less padding, but put the same examples together more often.
POOL = 50


class LengthBatches(Sampler[int]):
    """Yields indices so that each run of `batch_size` of them has nearly equal lengths, shuffled anew every epoch.

    An epoch is shuffled and cut into pools of about `POOL` batches. Each pool is sorted by length, and the batches are
    shuffled. The longest batch comes first, so that memory is allocated once and a run that does not fit fails at its
    start. The batch that is not full comes last.

    Args:
        lengths: tokens of every example.
        batch_size: examples per step, in all processes together.
        seed: the same seed and epoch give the same order.
    """

    def __init__(self, lengths: ArrayLike, batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is yielded next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.lengths))
        full = len(order) // self.batch_size * self.batch_size
        order, rest = order[:full], order[full:]
        # At least two pools; otherwise the same examples would be together in every epoch.
        pools = np.array_split(order.reshape(-1, self.batch_size), max(2, round(full / self.batch_size / POOL)))
        by_length = [pool.ravel()[np.argsort(self.lengths[pool.ravel()], kind="stable")] for pool in pools]
        batches = generator.permutation(np.concatenate(by_length).reshape(-1, self.batch_size))
        if len(batches):
            longest = int(self.lengths[batches].max(axis=1).argmax())
            batches[[0, longest]] = batches[[longest, 0]]
        yield from batches.ravel().tolist()
        yield from rest.tolist()


class TokenBatches(Sampler[list[int]]):
    """Yields batches of at most `budget` tokens, padding included, shuffled anew every epoch, the largest one first.

    Examples are sorted by length, with equal lengths in a new order each time. A batch ends where the next example
    would not fit, so every epoch has the same number of batches. An example that is longer than the budget is a batch
    by itself.

    Args:
        lengths: tokens of every example.
        budget: most tokens of a batch.
        seed: the same seed and epoch give the same batches.
    """

    def __init__(self, lengths: ArrayLike, budget: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.seed = seed
        self.epoch = 0
        self.starts = [0]
        for place, length in enumerate(np.sort(self.lengths)):
            if place and (place + 1 - self.starts[-1]) * length > budget:
                self.starts.append(place)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are yielded next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = np.lexsort((generator.permutation(len(self.lengths)), self.lengths))
        batches = np.split(order, self.starts[1:])
        tokens = [len(batch) * self.lengths[batch[-1]] for batch in batches]
        largest = int(np.argmax(tokens))
        yield batches[largest].tolist()
        for index in generator.permutation(len(batches)):
            if index != largest:
                yield batches[index].tolist()


def longest_first(tokens: Dataset) -> tuple[Dataset, np.ndarray]:
    """Sort examples by falling length; row `i` of the result was row `order[i]`."""
    order = np.argsort(-token_lengths(tokens), kind="stable")
    return tokens.select(order), order
