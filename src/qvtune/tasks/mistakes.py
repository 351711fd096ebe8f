"""The worst mistakes of a model with their texts, as they are saved and shown."""

from typing import Any

from datasets import Dataset
from numpy.typing import NDArray

from qvtune.tasks.task import Task

# How many mistakes of a run are saved, and how many characters of a text.
KEPT = 50
LONGEST_TEXT = 1000


def worst_mistakes(task: Task, scores: NDArray[Any], examples: Dataset, most: int = KEPT) -> list[dict[str, Any]]:
    """Return the worst mistakes of a model, the worst first.

    Args:
        task: defines mistakes.
        scores: the model's outputs in the task's form.
        examples: with the columns of `TextData`, in the order of `scores`.
        most: the largest number to return.

    Returns:
        `text` (and `text_pair`), cut to 1,000 characters; `label` and `prediction`; and the numbers of the task's
        `mistakes`.
    """
    found = task.mistakes(scores, task.label_array(examples["label"][:]), most)
    return [_texts(examples[i]) | mistake for i, mistake in found]


def sort_mistakes(task: Task, mistakes: list[dict[str, Any]], most: int = KEPT) -> list[dict[str, Any]]:
    """Merge the mistakes of several sets, the worst first."""
    return sorted(mistakes, key=lambda mistake: -mistake[task.mistake_size])[:most]


def cut_text(text: str, longest: int) -> str:
    """Return `text` cut to `longest` characters, with an ellipsis for the rest."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _texts(example: dict[str, Any]) -> dict[str, Any]:
    return {name: cut_text(example[name], LONGEST_TEXT) for name in ("text", "text_pair") if name in example}
