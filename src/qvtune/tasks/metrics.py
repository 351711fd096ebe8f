"""GLUE's metrics, computed by scikit-learn and scipy."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvtune.tasks.task import Task

# Takes labels and predictions: class ids, rows of 0 and 1, numbers, or lists of the names of tags.
Metric = Callable[[Any, Any], float]


def combine_splits(task: Task, by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Merge the metrics of several evaluation splits: each under its own name, and their mean under the plain one.

    One split keeps its names. MNLI gives accuracy_matched, accuracy_mismatched and accuracy.
    """
    if len(by_split) == 1:
        return dict(next(iter(by_split.values())))
    merged: dict[str, float] = {}
    for split, metrics in by_split.items():
        merged |= {f"{name}_{split.removeprefix('validation_')}": value for name, value in metrics.items()}
    names = next(iter(by_split.values()))
    return merged | {name: float(np.mean([metrics[name] for metrics in by_split.values()])) for name in names}


def standard_error(name: str, value: float, examples: int) -> float:
    """Return the standard error of a metric over `examples` examples, which is a share or a correlation."""
    is_correlation = name.endswith(("pearson", "spearman", "matthews_correlation"))
    spread = 1 - value**2 if is_correlation else math.sqrt(max(value * (1 - value), 0.0))
    # At the ends of its range a metric would seem certain.
    return max(spread, 1 / math.sqrt(examples)) / math.sqrt(examples)


def _accuracy(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    from sklearn.metrics import accuracy_score

    return accuracy_score(labels, predictions)


def _f1(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    from sklearn.metrics import f1_score

    return f1_score(labels, predictions, zero_division=0.0)


def _f1_macro(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    from sklearn.metrics import f1_score

    return f1_score(labels, predictions, average="macro", zero_division=0.0)


def _f1_micro(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    from sklearn.metrics import f1_score

    return f1_score(labels, predictions, average="micro", zero_division=0.0)


def _matthews(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    from sklearn.metrics import matthews_corrcoef

    return matthews_corrcoef(labels, predictions)


def _pearson(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    from scipy.stats import pearsonr

    return _correlation(pearsonr, labels, predictions)


def _spearman(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    from scipy.stats import spearmanr

    return _correlation(spearmanr, labels, predictions)


def _mean_squared_error(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    from sklearn.metrics import mean_squared_error

    return mean_squared_error(labels, predictions)


def _correlation(function: Callable[..., Any], labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    # A constant or a single example has no correlation. It counts as 0, since it explains nothing.
    if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every early evaluation would warn about nearly constant input
        value = function(labels.astype(np.float64), predictions.astype(np.float64)).statistic
    return float(np.nan_to_num(value))


def _entities(name: str) -> Metric:
    """Return a metric of seqeval, which counts whole entities; nothing found counts as 0."""

    def metric(labels: Any, predictions: Any) -> float:
        import seqeval.metrics

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is not found in early evaluations
            return getattr(seqeval.metrics, name)(labels, predictions)

    return metric


METRICS: dict[str, dict[str, Metric]] = {
    "accuracy": {"accuracy": _accuracy},
    "accuracy_f1": {"accuracy": _accuracy, "f1": _f1},
    "matthews": {"matthews_correlation": _matthews},
    "correlation": {"pearson": _pearson, "spearman": _spearman},
    "classes": {"accuracy": _accuracy, "f1_macro": _f1_macro},
    # For several labels, accuracy_score counts the examples all of whose labels are right.
    "labels": {"f1_micro": _f1_micro, "f1_macro": _f1_macro, "exact_match": _accuracy},
    "tags": {"accuracy": _accuracy, "f1_macro": _f1_macro},
    # Of names of tags, by text.
    "entities": {
        "f1": _entities("f1_score"),
        "precision": _entities("precision_score"),
        "recall": _entities("recall_score"),
        "accuracy": _entities("accuracy_score"),
    },
    "numbers": {"pearson": _pearson, "spearman": _spearman, "mean_squared_error": _mean_squared_error},
}
