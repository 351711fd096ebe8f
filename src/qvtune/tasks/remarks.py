"""Notes about the examples of a task for a user to read before training."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from datasets import Dataset

from qvtune.data.columns import is_integer
from qvtune.tasks.examples import TUNING
from qvtune.tasks.label_cells import SEPARATORS, joined_cells
from qvtune.tasks.task import Task

FEW_EXAMPLES = 30

# Labels by which other tools mark a missing one.
MISSING_NAMES = ("na", "n/a", "nan", "none", "null", "missing", "?")


def remarks(task: Task, train: Dataset, evaluation: Mapping[str, Dataset]) -> list[str]:
    """Describe the task, with its classes and their numbers of examples, and name what looks like a mistake."""
    found = [task.describe_examples(train["label"][:]), *_odd_labels(task)]
    known = set(_texts(train))
    for split, dataset in evaluation.items():
        shared = sum(text in known for text in _texts(dataset))
        if shared:
            found.append(f"{shared:,} of {len(dataset):,} {split} examples have the text of a training example.")
        if len(dataset) < FEW_EXAMPLES:
            more = "--tune-fraction" if split == TUNING else "--validation or --validation-fraction"
            found.append(f"The {split} set is small ({len(dataset)}): its metrics are coarse. Give more by {more}.")
    empty = sum(not text.strip() for text in train["text"][:])
    if empty:
        found.append(f"{empty:,} of {len(train):,} training texts are empty.")
    return found


def _odd_labels(task: Task) -> list[str]:
    found = [
        f"The labels {', '.join(map(repr, names))} {how} and are classes of their own."
        for how, key in (("differ in capitals alone", str.casefold), ("are the same number", _number))
        for names in _alike(task.labels, key)
    ]
    if joined := next((cells for separator in SEPARATORS if (cells := joined_cells(task.labels, separator))), []):
        more = f" and {len(joined) - 1} more seem" if len(joined) > 1 else " seems"
        found.append(
            f"The label '{joined[0]}'{more} to be several labels in one, of which each occurs with other texts too. A "
            "text has one label here: every combination is learned as a class of its own. For several labels give "
            "--task-type multilabel."
        )
    return found + [
        f"The label '{name}' is a class of its own; remove those rows if it stands for a missing label."
        for name in task.labels
        if name.casefold() in MISSING_NAMES
    ]


def _alike(names: Sequence[str], key: Callable[[str], Any]) -> list[list[str]]:
    groups = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _number(name: str) -> Any:
    return Decimal(name) if is_integer(name) else name


def _texts(dataset: Dataset) -> list[tuple[str, str]]:
    firsts = dataset["text"][:]
    return list(zip(firsts, dataset["text_pair"][:] if "text_pair" in dataset.column_names else firsts, strict=True))
