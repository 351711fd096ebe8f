"""Thresholds for several labels, fitted so that each label has its best F1."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A label with fewer examples than this keeps the threshold 0: its best one would be an accident.
FEWEST = 5


def fit_thresholds(scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return for every label the threshold on its logit with the best F1, half way between two scores: (k,).

    Of equal ones the nearest to 0 is taken.

    Args:
        scores: (n, k) logits.
        labels: (n, k) of 0 and 1.
    """
    values = np.asarray(scores, dtype=np.float64)
    return np.array([_best(values[:, k], labels[:, k]) for k in range(values.shape[1])])


def _best(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    present = int(labels.sum())
    if present < FEWEST:
        return 0.0
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(labels[order])
    called = np.arange(1, len(ranked) + 1)
    f1 = 2 * hits / (called + present)
    # A threshold can lie only between two different scores, or below all of them.
    between = np.append(ranked[:-1] > ranked[1:], True)
    middles = np.append((ranked[:-1] + ranked[1:]) / 2, ranked[-1] - 1.0)
    best = np.flatnonzero(between & (f1 >= f1[between].max()))
    return float(min(middles[best], key=abs))
