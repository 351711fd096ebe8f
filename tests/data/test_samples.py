from collections import Counter

import numpy as np
import pytest

from qvtune.data.samples import stratified_sample


def labels_of(counts: dict[int, int]) -> list[int]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [labels[i] for i in np.random.default_rng(5).permutation(len(labels))]


SHARES = {
    "even": ({0: 50, 1: 50}, 20, {0: 10, 1: 10}),
    "three to one": ({0: 75, 1: 25}, 20, {0: 15, 1: 5}),
    "largest remainder": ({0: 5, 1: 3, 2: 2}, 7, {0: 4, 1: 2, 2: 1}),
    "rare class keeps one": ({0: 98, 1: 1, 2: 1}, 10, {0: 8, 1: 1, 2: 1}),
    "one of each": ({0: 98, 1: 1, 2: 1}, 3, {0: 1, 1: 1, 2: 1}),
    "fewer rows than classes": ({0: 9, 1: 9, 2: 1}, 2, {0: 1, 1: 1}),
    "many rare classes": ({0: 50, 1: 50, **dict.fromkeys(range(2, 12), 1)}, 12, dict.fromkeys(range(12), 1)),
    "ids with gaps": ({7: 6, 40: 2}, 4, {7: 3, 40: 1}),
    "all": ({0: 3, 1: 4}, 7, {0: 3, 1: 4}),
    "one row": ({0: 1}, 1, {0: 1}),
    "none of one": ({0: 1}, 0, {}),
    "one of two": ({0: 1, 1: 1}, 1, {0: 1}),
    "two of three": ({0: 2, 1: 1}, 2, {0: 1, 1: 1}),
    "three of four": ({0: 3, 1: 1}, 3, {0: 2, 1: 1}),
}


@pytest.mark.parametrize(("counts", "size", "shares"), SHARES.values(), ids=SHARES)
def test_classes_keep_their_proportions(counts, size, shares):
    labels = labels_of(counts)
    chosen = stratified_sample(labels, len(labels), size, seed=0)
    assert list(chosen) == sorted(set(chosen.tolist()))
    assert Counter(labels[i] for i in chosen) == shares


def test_every_size_is_met_and_no_class_is_off_by_more_than_one_row():
    counts = {0: 41, 1: 23, 2: 9}
    labels = labels_of(counts)
    for size in range(3, 74):
        found = Counter(labels[i] for i in stratified_sample(labels, 73, size, seed=3))
        assert found.total() == size
        assert all(abs(found[label] - size * count / 73) <= 1 for label, count in counts.items())


@pytest.mark.parametrize("labels", [[0, 1] * 50, None], ids=["stratified", "plain"])
def test_the_seed_chooses_the_rows(labels):
    first, same, other = (stratified_sample(labels, 100, 20, seed).tolist() for seed in (1, 1, 2))
    assert first == same
    assert first != other
    assert len(set(first)) == len(set(other)) == 20
    assert first != list(range(20))


def test_without_labels_any_size_up_to_the_total_is_met():
    for size in range(5):
        chosen = stratified_sample(None, 4, size, seed=0)
        assert len(set(chosen.tolist())) == size
        assert set(chosen.tolist()) <= set(range(4))


def test_every_row_of_a_class_can_be_chosen():
    labels = [0] * 6 + [1] * 6
    seen = {i for seed in range(40) for i in stratified_sample(labels, 12, 4, seed).tolist()}
    assert seen == set(range(12))
