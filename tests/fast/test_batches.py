"""Batches of similar length."""

import numpy as np
import pytest
from datasets import Dataset

from qvtune.fast.batches import LengthBatches, TokenBatches, longest_first

LENGTHS = np.random.default_rng(0).integers(3, 129, size=1000)


def batches(sampler: LengthBatches) -> list[list[int]]:
    order = list(sampler)
    return [order[i : i + sampler.batch_size] for i in range(0, len(order), sampler.batch_size)]


@pytest.mark.parametrize("count", [1, 31, 32, 33, 1000])
def test_every_example_comes_once(count: int) -> None:
    sampler = LengthBatches(LENGTHS[:count], 32, seed=1)
    assert sorted(sampler) == list(range(count))
    assert len(sampler) == count


def test_little_is_padded() -> None:
    def padded(order: list[list[int]]) -> float:
        return sum(LENGTHS[b].max() * len(b) for b in order) / LENGTHS.sum()

    shuffled = np.random.default_rng(1).permutation(1000)
    assert padded(batches(LengthBatches(LENGTHS, 32, seed=1))) < 1.1
    assert padded(np.split(shuffled, range(32, 1000, 32))) > 1.5


def test_longest_batch_is_first_and_the_rest_last() -> None:
    found = batches(LengthBatches(LENGTHS, 32, seed=2))
    assert LENGTHS[found[0]].max() == max(LENGTHS[b].max() for b in found[:-1])
    assert [len(b) for b in found] == [32] * 31 + [8]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    sampler, other = LengthBatches(LENGTHS, 32, seed=3), LengthBatches(LENGTHS, 32, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert list(other) == first != second
    other.set_epoch(1)
    assert list(other) == second
    assert list(LengthBatches(LENGTHS, 32, seed=4)) != first


def test_batches_are_composed_anew_every_epoch() -> None:
    sampler = LengthBatches(LENGTHS, 32, seed=5)
    first = {frozenset(b) for b in batches(sampler)}
    sampler.set_epoch(1)
    assert not first & {frozenset(b) for b in batches(sampler)}


def test_longest_first_tells_where_rows_were() -> None:
    tokens = Dataset.from_dict({"input_ids": [[1] * n for n in (3, 5, 1, 5)], "row": [0, 1, 2, 3]})
    by_length, order = longest_first(tokens)
    assert list(by_length["row"]) == order.tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("budget", [1, 128, 500, 10_000, 10**6])
def test_no_batch_has_more_tokens_than_allowed(budget: int) -> None:
    sampler = TokenBatches(LENGTHS, budget, seed=1)
    found = list(sampler)
    assert len(found) == len(sampler)
    assert sorted(index for batch in found for index in batch) == list(range(1000))
    sizes = [len(batch) * LENGTHS[batch].max() for batch in found]
    assert all(size <= budget or len(batch) == 1 for size, batch in zip(sizes, found, strict=True))
    assert sizes[0] == max(sizes)
    if budget == 500:  # little is padded, and batches are full
        assert sum(sizes) < 1.1 * LENGTHS.sum()
        assert len(found) < 1.3 * LENGTHS.sum() / budget + 1


def test_epochs_have_as_many_batches_and_others() -> None:
    lengths = LENGTHS // 16 + 3  # of each there are many, whose order is new in every epoch
    sampler = TokenBatches(lengths, 100, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert len(first) == len(second)
    repeated = {frozenset(b) for b in first} & {frozenset(b) for b in second}
    assert len(repeated) < len(first) / 10
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(TokenBatches(lengths, 100, seed=2)) != first
