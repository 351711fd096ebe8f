"""Rows of any source as named columns. Missing texts and labels, and texts that are not text, are refused."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from qvtune.data.columns import as_number, choose_columns
from qvtune.data.foreign import foreign_task, several_values
from qvtune.data.tables import LONE_SURROGATE
from qvtune.errors import DataError

MISSING = ("", None)


@dataclass(frozen=True)
class Records:
    """Rows of one source: `texts[c][i]` is text column c of row i; `places[i]` names the place of row i."""

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
        The records, and a sentence about the guess, or None.

    Raises:
        DataError: if the columns cannot be guessed, a text or label is missing, or a label is NaN, infinite or a list.
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
        DataError: if one is missing or is not text.
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
    """Check that a cell, and the contents of a list or object in it, can be written as UTF-8.

    Raises:
        DataError: if not; `place` says where the cell is.
    """
    if isinstance(value, (list, tuple, dict)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str) and not value.isascii() and LONE_SURROGATE.search(value):
        raise DataError(f"{place}: column '{name}' holds half a character. Correct or remove that row.")


def text_dataset(texts: Sequence[Sequence[str]], labels: Sequence[Any] | None = None) -> Dataset:
    """Return one or two text columns, and labels if there are any, under the column names of qvtune."""
    columns: dict[str, Any] = {"text": list(texts[0])}
    if len(texts) == 2:
        columns["text_pair"] = list(texts[1])
    if labels is not None:
        columns["label"] = list(labels)
    return Dataset.from_dict(columns)
