"""The worst mistakes of a model: where it is surest of a wrong class, or furthest from a number."""

from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from qvtune.data.task import CLASSIFICATION, Task

# How many are kept of a run, and how many characters of a text.
KEPT = 50
LONGEST_TEXT = 1000


def probabilities(scores: NDArray) -> NDArray[np.float64]:
    """Return the softmax of logits, (examples, classes), in float64."""
    exponentials = np.exp((scores - scores.max(axis=-1, keepdims=True)).astype(np.float64))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def worst_mistakes(task: Task, scores: NDArray, examples: Dataset, most: int = KEPT) -> list[dict[str, Any]]:
    """Return the examples that a model has most wrong, the worst first.

    Args:
        task: names the classes.
        scores: (examples, classes) logits, or (examples,) or (examples, 1) predictions of a regression.
        examples: with the columns of `TextData`, in the order of `scores`.
        most: how many at most.

    Returns:
        `text` (and `text_pair`), cut to 1,000 characters; `label` and `prediction`; of a classification the model's
        `probability` of the wrong class, by which they are sorted, and its `label_probability`; of a regression the
        absolute `error`, by which they are sorted.
    """
    labels = np.asarray(examples["label"])
    if task.kind != CLASSIFICATION:
        values = scores.reshape(-1).astype(np.float64)
        errors = np.abs(values - labels)
        return [
            _texts(examples[i]) | {"label": float(labels[i]), "prediction": float(values[i]), "error": float(errors[i])}
            for i in _first(errors, np.flatnonzero(errors > 0), most)
        ]
    chances, predicted = probabilities(scores), scores.argmax(axis=-1)
    sureness = chances[np.arange(len(labels)), predicted]
    return [
        _texts(examples[i])
        | {
            "label": task.labels[int(labels[i])],
            "prediction": task.labels[int(predicted[i])],
            "probability": float(sureness[i]),
            "label_probability": float(chances[i, labels[i]]),
        }
        for i in _first(sureness, np.flatnonzero(predicted != labels), most)
    ]


def sort_mistakes(task: Task, mistakes: list[dict[str, Any]], most: int = KEPT) -> list[dict[str, Any]]:
    """Merge the mistakes of several sets, the worst first."""
    size = "probability" if task.kind == CLASSIFICATION else "error"
    return sorted(mistakes, key=lambda mistake: -mistake[size])[:most]


def cut_text(text: str, longest: int) -> str:
    """Return `text` with what is beyond `longest` characters replaced by an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _first(sizes: NDArray, wrong: NDArray, most: int) -> list[int]:
    return wrong[np.argsort(-sizes[wrong], kind="stable")][:most].tolist()


def _texts(example: dict[str, Any]) -> dict[str, Any]:
    return {name: cut_text(example[name], LONGEST_TEXT) for name in ("text", "text_pair") if name in example}
