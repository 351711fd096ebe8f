"""Seeded, stratified choices of rows."""

from collections.abc import Sequence

import numpy as np


def stratified_sample(labels: Sequence[int] | None, total: int, size: int, seed: int) -> np.ndarray:
    """Choose `size` of `total` rows at random, and keep the proportion of each class.

    Fractions of a row go to the classes with the largest remainders. Every class keeps a row if `size` allows one for
    each.

    Args:
        labels: class id of every row, or None to choose regardless of labels.
        total: number of rows.
        size: rows to choose, at most `total`.
        seed: the same seed chooses the same rows.

    Returns:
        The chosen row numbers, ascending.
    """
    generator = np.random.default_rng(seed)
    if labels is None:
        return np.sort(generator.permutation(total)[:size])
    ids = np.asarray(labels)
    classes, counts = np.unique(ids, return_counts=True)
    shares = _allocate(counts, size)
    chosen = [
        generator.permutation(np.flatnonzero(ids == label))[:share]
        for label, share in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _allocate(counts: np.ndarray, size: int) -> np.ndarray:
    exact = counts * (size / counts.sum())
    shares = np.floor(exact).astype(int)
    if size >= len(counts):
        shares = np.maximum(shares, 1)
    remainders = np.argsort(-(exact - shares), kind="stable")
    for index in remainders[: max(0, size - shares.sum())]:
        shares[index] += 1
    while shares.sum() > size:
        shares[np.argmax(shares)] -= 1
    return shares
