"""Rows of any source as named columns. Missing texts and labels, and texts that are not text, are refused."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from qvtune.data.columns import as_number, choose_columns
from qvtune.data.foreign import foreign_task
from qvtune.data.tables import LONE_SURROGATE, Table
from qvtune.errors import DataError

MISSING = ("", None)


@dataclass(frozen=True)
class Records:
    """Rows of one source: `texts[c][i]` is text column c of row i; `places[i]` names the place of row i.

    `labels[i]` is the cell of the label column, or the cells of all label columns where there are several.
    """

    source: str
    text_columns: tuple[str, ...]
    label_columns: tuple[str, ...]
    texts: tuple[list[Any], ...]
    labels: list[Any]
    places: Sequence[str]

    @property
    def label_column(self) -> str:
        """The name of the label column, or the names of all."""
        return ", ".join(self.label_columns)


def take_columns(
    table: Table, text_columns: Sequence[str] | None, label_columns: Sequence[str] | None
) -> tuple[Records, str | None]:
    """Pick the text and label columns of a source.

    Args:
        table: the rows.
        text_columns: one or two; guessed when None.
        label_columns: one, or several for a kind of task that has several labels; guessed when None.

    Returns:
        The records, and a sentence about the guess, or None.

    Raises:
        DataError: if the columns cannot be guessed, or a text is missing.
    """
    texts, labels, note = find_columns(table, text_columns, label_columns)
    values = label_cells(table, labels)
    read = take_texts(table.column, texts, table.places)
    return Records(table.source, texts, labels, read, values, table.places), note


def find_columns(
    table: Table, text_columns: Sequence[str] | None, label_columns: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    """Return the text columns, the label columns, and a sentence about the guess; for arguments see `take_columns`.

    Raises:
        DataError: if they cannot be guessed, or seem to be for a model that writes.
    """
    if label_columns is None and (foreign := foreign_task(table.columns, lambda name: table.column(name)[0])):
        raise DataError(f"{table.source}: {foreign}")
    return choose_columns(table.source, table.columns, text_columns, label_columns)


def label_cells(table: Table, labels: Sequence[str]) -> list[Any]:
    """Return the cells of the label column, or tuples of the cells of several.

    Raises:
        DataError: if one holds half a character.
    """
    cells = [table.column(name) for name in labels]
    for name, values in zip(labels, cells, strict=True):
        for place, value in zip(table.places, values, strict=True):
            check_characters(name, value, place)
    return cells[0] if len(labels) == 1 else list(zip(*cells, strict=True))


def check_single_labels(records: Records) -> None:
    """Check that every row has one label.

    Raises:
        DataError: if there are several label columns, or a label is missing, is NaN or infinite, or is a list.
    """
    name = records.label_column
    if len(records.label_columns) > 1:
        raise DataError(
            f"{records.source}: the label columns {name} were named, and a text has one label. Name one, or give "
            "--task-type multilabel."
        )
    for place, value in zip(records.places, records.labels, strict=True):
        if value in MISSING or (isinstance(value, str) and not value.strip()):
            raise DataError(f"{place}: column '{name}' is empty. Give the row a label, or remove it.")
        if isinstance(value, (list, tuple, dict)):
            raise DataError(
                f"{place}: column '{name}' holds several values. Give every row one label, or give --task-type "
                "multilabel."
            )
        if isinstance(value, float):
            as_number(value, place)


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


def count_empty(texts: Dataset) -> int:
    """Count the rows of `text_dataset` that hold no text."""
    columns = [texts[name] for name in texts.column_names if name in ("text", "text_pair")]
    return sum(not "".join("".join(cell) for cell in row).strip() for row in zip(*columns, strict=True))


def text_dataset(texts: Sequence[Sequence[str]], labels: Sequence[Any] | None = None) -> Dataset:
    """Return one or two text columns, and labels if there are any, under the column names of qvtune."""
    columns: dict[str, Any] = {"text": list(texts[0])}
    if len(texts) == 2:
        columns["text_pair"] = list(texts[1])
    if labels is not None:
        columns["label"] = list(labels)
    return Dataset.from_dict(columns)
