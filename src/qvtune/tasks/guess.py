"""Guess the kind of task from the labels, if the user does not say."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from qvtune.data.columns import NOT_FINITE, NUMBER, is_integer
from qvtune.data.records import Records, find_columns, label_cells
from qvtune.data.tables import Table
from qvtune.tasks.classification import Classification
from qvtune.tasks.label_cells import SEPARATORS, joined_cells
from qvtune.tasks.multilabel import Multilabel
from qvtune.tasks.regression import Regression
from qvtune.tasks.table import TASKS
from qvtune.tasks.task import Task


def guess_kind(values: Sequence[Any]) -> str:
    """Return "multilabel" if labels are lists or several names in a cell, or "regression" if they are numbers.

    Numbers are floats, or strings that are all numbers but not all whole numbers. All else is a "classification".

    A missing number, such as nan, is refused later with its line. It does not make a regression if no number has a
    fraction. Decimals, for example from a Parquet file, count as they are written.
    """
    named = [value for value in values if value not in (None, "")]
    if (named and all(isinstance(value, (list, tuple)) for value in named)) or is_joined(values):
        return Multilabel.kind
    values = [str(value) if isinstance(value, Decimal) else value for value in values]
    if any(isinstance(value, float) for value in values):
        return Regression.kind
    if not all(isinstance(value, str) for value in values):
        return Classification.kind
    numbers = [value.strip() for value in values if not NOT_FINITE.fullmatch(value.strip())]
    whole = all(is_integer(value) for value in numbers)
    return Regression.kind if not whole and all(NUMBER.fullmatch(value) for value in numbers) else Classification.kind


def is_joined(values: Sequence[Any]) -> bool:
    """Return whether labels are several names in a cell: two different cells or more whose parts occur elsewhere too.

    A slash or a plus may belong to a name, so these do not count.
    """
    if not all(isinstance(value, str) for value in values):
        return False
    return any(len(joined_cells(values, separator)) > 1 for separator in SEPARATORS[:3])


def read_labelled(
    table: Table,
    text_columns: Sequence[str] | None = None,
    label_columns: Sequence[str] | None = None,
    kind: str | None = None,
) -> tuple[type[Task], Records, str | None]:
    """Read a table for a kind of task.

    Args:
        table: rows of any source.
        text_columns: names of the columns with the texts; guessed when None.
        label_columns: names of the columns with the labels; guessed when None.
        kind: the kind's name; when None it is recognised by the columns, or by the labels.

    Returns:
        The kind of task, the records, and a sentence about guessed columns, or None.

    Raises:
        DataError: if the columns cannot be guessed, or a cell is not what the kind needs.
    """
    kinds = [known for known in TASKS.values() if not (known.writes and label_columns)]  # named labels are labels
    chosen = TASKS[kind] if kind else next((known for known in kinds if known.recognises(table)), None)
    if chosen is None:
        _, labels, _ = find_columns(table, text_columns, label_columns)
        chosen = TASKS[guess_kind(label_cells(table, labels))]
    return chosen, *chosen.read(table, text_columns, label_columns)
