"""Guess the kind of task from the labels, if the user does not say."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from qvtune.data.columns import NOT_FINITE, NUMBER, is_integer
from qvtune.data.records import Records
from qvtune.tasks.classification import Classification
from qvtune.tasks.regression import Regression
from qvtune.tasks.table import TASKS
from qvtune.tasks.task import Task


def guess_kind(values: Sequence[Any]) -> str:
    """Return "regression" if the labels are floats, or strings that are all numbers but not all whole numbers.

    A missing number, such as nan, is refused later with its line. It does not make a regression if no number has a
    fraction. Decimals, for example from a Parquet file, count as they are written.
    """
    values = [str(value) if isinstance(value, Decimal) else value for value in values]
    if any(isinstance(value, float) for value in values):
        return Regression.kind
    if not all(isinstance(value, str) for value in values):
        return Classification.kind
    numbers = [value.strip() for value in values if not NOT_FINITE.fullmatch(value.strip())]
    whole = all(is_integer(value) for value in numbers)
    return Regression.kind if not whole and all(NUMBER.fullmatch(value) for value in numbers) else Classification.kind


def make_task(name: str, records: Records, kind: str | None = None) -> Task:
    """Make the task for a user's own data from its training rows.

    Args:
        name: name of the data.
        records: the training rows.
        kind: kind of task; guessed from the labels when None.

    Raises:
        DataError: if there is nothing to learn from them.
    """
    return TASKS[kind or guess_kind(records.labels)].from_records(name, records)
