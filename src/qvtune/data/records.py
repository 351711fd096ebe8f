"""Turn rows of any source into the examples of a task, checking every label."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from qvtune.data.columns import as_number, choose_columns, class_name, class_names, guess_kind
from qvtune.data.foreign import foreign_task, several_values
from qvtune.data.tables import LONE_SURROGATE
from qvtune.data.task import CLASSIFICATION, REGRESSION, Task
from qvtune.errors import DataError

MISSING = ("", None)

DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")


@dataclass(frozen=True)
class Records:
    """Rows of one source: `texts[c][i]` is text column c of row i; `places[i]` says where row i stands."""

    source: str
    text_columns: tuple[str, ...]
    label_column: str
    texts: tuple[list[str], ...]
    labels: list[Any]
    places: Sequence[str]


def take_columns(
    source: str,
    columns: Sequence[str],
    column: Any,
    places: Sequence[str],
    text_columns: Sequence[str] | None,
    label_column: str | None,
) -> tuple[Records, str | None]:
    """Pick the text and label columns of a source; `column(name)` gives the cells of one.

    Returns:
        The records, and a sentence about what was guessed, or None.

    Raises:
        DataError: if the columns cannot be told, a text or label is missing, or a label is NaN, infinite or a list.
    """
    if label_column is None and (foreign := foreign_task(columns, lambda name: column(name)[0])):
        raise DataError(f"{source}: {foreign}")
    texts, label, note = choose_columns(source, columns, text_columns, label_column)
    labels = list(column(label))
    for row, (place, value) in enumerate(zip(places, labels, strict=True)):
        if value in MISSING or (isinstance(value, str) and not value.strip()):
            raise DataError(f"{place}: column '{label}' is empty. Give the row a label, or remove it.")
        if isinstance(value, (list, tuple, dict)):
            raise DataError(f"{place}: {several_values(label, columns, lambda name: column(name)[row])}")  # noqa: B023
        if isinstance(value, float):
            as_number(value, place)
        check_characters(label, value, place)
    return Records(source, texts, label, take_texts(column, texts, places), labels, places), note


def take_texts(column: Any, names: Sequence[str], places: Sequence[str]) -> tuple[list[str], ...]:
    """Return the cells of the text columns.

    Raises:
        DataError: if one is missing or no text.
    """
    texts = tuple(list(column(name)) for name in names)
    for name, cells in zip(names, texts, strict=True):
        for place, value in zip(places, cells, strict=True):
            if not isinstance(value, str):
                what = "missing" if value is None else f"a {type(value).__name__}, not text"
                raise DataError(f"{place}: column '{name}' is {what}. Correct or remove that row.")
            check_characters(name, value, place)
    return texts


def check_characters(name: str, value: Any, place: str) -> None:
    """Check that a cell, and what is in it where it is a list or an object, can be written as UTF-8.

    Raises:
        DataError: if not; `place` says where it stands.
    """
    if isinstance(value, (list, tuple, dict)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str) and not value.isascii() and LONE_SURROGATE.search(value):
        raise DataError(f"{place}: column '{name}' holds half a character. Correct or remove that row.")


def make_task(name: str, records: Records, kind: str | None = None) -> Task:
    """Make the task of one's own data: its classes and their order come from the training rows.

    Raises:
        DataError: if there is one class only, or a regression label is no number.
    """
    kind = kind or guess_kind(records.labels)
    labels: tuple[str, ...] = ()
    if kind == CLASSIFICATION:
        labels = class_names(records.labels)
        if len(labels) < 2:
            raise DataError(
                f"{records.source}: every row has the label '{labels[0]}'; there is nothing to tell apart. "
                "Give data with at least two classes."
            )
        _check_classes(records, labels)
    else:
        numbers = {as_number(value, place) for value, place in zip(records.labels, records.places, strict=True)}
        if len(numbers) < 2:
            raise DataError(f"{records.source}: every row has the label {numbers.pop()}; there is nothing to learn.")
    return Task(
        name=name,
        kind=kind,
        labels=labels,
        metrics="classes" if kind == CLASSIFICATION else "numbers",
        main_metric="accuracy" if kind == CLASSIFICATION else "pearson",
        text_columns=records.text_columns,
        label_column=records.label_column,
    )


def _check_classes(records: Records, labels: Sequence[str]) -> None:
    name = records.label_column
    if all(DECIMAL_COMMA.fullmatch(label) for label in labels):
        raise DataError(
            f"{records.source}: labels such as '{labels[0]}' in column '{name}' have a decimal comma. Write a point."
        )
    if len(labels) == len(records.labels) > 2:
        raise DataError(
            f"{records.source}: each of the {len(labels)} rows has a label of its own in column '{name}', so there are "
            "no classes to learn. Name another --label-column, or give --task-type regression for numbers."
        )


def make_dataset(records: Records, task: Task) -> Dataset:
    """Return the examples with labels as class ids or floats.

    Raises:
        DataError: for a label that the task does not have, or that is no number in a regression.
    """
    if task.kind == REGRESSION:
        labels: list[Any] = [as_number(v, place) for v, place in zip(records.labels, records.places, strict=True)]
    else:
        labels = [task.label_id(class_name(v), place) for v, place in zip(records.labels, records.places, strict=True)]
    return text_dataset(records.texts, labels)


def text_dataset(texts: Sequence[Sequence[str]], labels: Sequence[Any] | None = None) -> Dataset:
    """Put one or two text columns, and labels where there are any, under the names that the rest of qvtune uses."""
    columns: dict[str, Any] = {"text": list(texts[0])}
    if len(texts) == 2:
        columns["text_pair"] = list(texts[1])
    if labels is not None:
        columns["label"] = list(labels)
    return Dataset.from_dict(columns)
