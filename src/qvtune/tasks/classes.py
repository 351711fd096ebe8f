"""Results of a classification by class: precision, recall, F1, support, and which classes it confuses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def describe_classes(names: Sequence[str], predicted: NDArray[Any], labels: NDArray[Any]) -> dict[str, Any]:
    """Compare predicted classes with the labels, by scikit-learn.

    Args:
        names: names of the classes, by id.
        predicted: (examples,) class ids.
        labels: (examples,) class ids.

    Returns:
        `classes`, in the order of the names: `label`, `precision`, `recall`, `f1`, `support` (examples with the label)
        and `predicted` (examples with the prediction) of each; undefined values are 0. And `confusion`, a list of rows:
        row i column j counts the examples with label i and prediction j.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    ids = np.arange(len(names))
    columns = precision_recall_fscore_support(labels, predicted, labels=ids, zero_division=0.0)
    matrix = confusion_matrix(labels, predicted, labels=ids)
    classes = [
        {
            "label": name,
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
            "predicted": int(called),
        }
        for name, precision, recall, f1, support, called in zip(names, *columns, matrix.sum(axis=0), strict=True)
    ]
    return {"classes": classes, "confusion": matrix.tolist()}


def frequent_confusions(confusion: list[list[int]], most: int) -> list[tuple[int, int, int]]:
    """Return label, prediction and count of the most frequent mistakes, at most `most` of them.

    Args:
        confusion: as `describe_classes` returns it.
        most: the largest number to return.
    """
    found = [(i, j, n) for i, row in enumerate(confusion) for j, n in enumerate(row) if n and i != j]
    return sorted(found, key=lambda mistake: -mistake[2])[:most]
