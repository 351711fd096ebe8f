"""Sentences about the examples of a task that a user would want to read before training on them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from datasets import Dataset

from qvtune.data.columns import is_integer
from qvtune.data.task import CLASSIFICATION, Task

LISTED = 8
# What people write between several labels in one cell.
SEPARATORS = (";", "|", ",", "/", "+")
FEW_EXAMPLES = 30
FEW_VALUES = 5

# Labels that other tools write for a missing one.
MISSING_NAMES = ("na", "n/a", "nan", "none", "null", "missing", "?")


def remarks(task: Task, train: Dataset, evaluation: Mapping[str, Dataset]) -> list[str]:
    """Say what the task is, with its classes and how many examples each has, and what looks like a mistake."""
    found = [_describe(task, train), *_odd_labels(task)]
    known = set(_texts(train))
    for split, dataset in evaluation.items():
        shared = sum(text in known for text in _texts(dataset))
        if shared:
            found.append(f"{shared:,} of {len(dataset):,} {split} examples have the text of a training example.")
        if len(dataset) < FEW_EXAMPLES:
            found.append(
                f"The {split} set is small ({len(dataset)}): its metrics are coarse. Give more by --validation or "
                "--validation-fraction."
            )
    empty = sum(not text.strip() for text in train["text"])
    if empty:
        found.append(f"{empty:,} of {len(train):,} training texts are empty.")
    return found


def _describe(task: Task, train: Dataset) -> str:
    labels = list(train["label"])
    if task.kind != CLASSIFICATION:
        text = f"Regression, {len(labels):,} training examples with labels from {min(labels)} to {max(labels)}."
        if len(set(labels)) <= FEW_VALUES and all(float(label).is_integer() for label in labels):
            text += " They are whole numbers: if they name classes, give --task-type classification."
        return text
    counts = Counter(labels)
    classes = [f"{name} ({counts[i]:,})" for i, name in enumerate(task.labels)]
    more = f", and {len(classes) - LISTED} more" if len(classes) > LISTED else ""
    absent = [name for i, name in enumerate(task.labels) if not counts[i]]
    if absent:
        more += f"; it cannot learn {', '.join(absent[:LISTED])}, of which none is left for training"
    return f"Classification, {len(classes)} classes with training examples: {', '.join(classes[:LISTED])}{more}."


def _odd_labels(task: Task) -> list[str]:
    found = [
        f"The labels {', '.join(map(repr, names))} {how} and are classes of their own."
        for how, key in (("differ in capitals alone", str.casefold), ("are the same number", _number))
        for names in _alike(task.labels, key)
    ]
    if joined := _joined_labels(task.labels):
        more = f" and {len(joined) - 1} more seem" if len(joined) > 1 else " seems"
        found.append(
            f"The label '{joined[0]}'{more} to be several labels in one, of which each occurs with other texts too. A "
            "text has one label here: every combination is learned as a class of its own."
        )
    return found + [
        f"The label '{name}' is a class of its own; remove those rows if it stands for a missing label."
        for name in task.labels
        if name.casefold() in MISSING_NAMES
    ]


def _joined_labels(names: Sequence[str]) -> list[str]:
    """List labels such as "infra;web" of which every part occurs in other labels, alone or beside others."""
    for separator in SEPARATORS:
        parts = {name: {part.strip() for part in name.split(separator)} for name in names}
        counts = Counter(part for found in parts.values() for part in found)
        joined = [name for name, found in parts.items() if len(found) > 1 and all(counts[part] > 1 for part in found)]
        if joined:
            return joined
    return []


def _alike(names: Sequence[str], key: Callable[[str], Any]) -> list[list[str]]:
    groups = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _number(name: str) -> Any:
    return Decimal(name) if is_integer(name) else name


def _texts(dataset: Dataset) -> list[tuple[str, str]]:
    firsts = list(dataset["text"])
    return list(zip(firsts, dataset["text_pair"] if "text_pair" in dataset.column_names else firsts, strict=True))
