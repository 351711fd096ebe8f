"""The worst mistakes of a model with their texts, as they are kept and shown."""

from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from qvtune.tasks.task import Task

# How many are kept of a run, and how many characters of a text.
KEPT = 50
LONGEST_TEXT = 1000


def worst_mistakes(task: Task, scores: NDArray, examples: Dataset, most: int = KEPT) -> list[dict[str, Any]]:
    """Return the examples that a model has most wrong, the worst first.

    Args:
        task: says what they are.
        scores: what it keeps of a model's outputs.
        examples: with the columns of `TextData`, in the order of `scores`.
        most: how many at most.

    Returns:
        `text` (and `text_pair`), cut to 1,000 characters; `label` and `prediction`; and the numbers of the task's
        `mistakes`.
    """
    found = task.mistakes(scores, np.asarray(examples["label"]), most)
    return [_texts(examples[i]) | mistake for i, mistake in found]


def sort_mistakes(task: Task, mistakes: list[dict[str, Any]], most: int = KEPT) -> list[dict[str, Any]]:
    """Merge the mistakes of several sets, the worst first."""
    return sorted(mistakes, key=lambda mistake: -mistake[task.mistake_size])[:most]


def cut_text(text: str, longest: int) -> str:
    """Return `text` with what is beyond `longest` characters replaced by an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _texts(example: dict[str, Any]) -> dict[str, Any]:
    return {name: cut_text(example[name], LONGEST_TEXT) for name in ("text", "text_pair") if name in example}
