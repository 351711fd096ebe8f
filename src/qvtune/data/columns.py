"""Guess which columns hold the texts and the label, and read numeric cells."""

import math
import re
from collections.abc import Sequence
from typing import Any

from qvtune.errors import DataError, nearest

TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
    ("query", "passage"),
)
TEXTS = ("text", "sentence", "review", "content", "document", "tweet", "comment", "message", "body", "question")
LABELS = ("label", "labels", "target", "class", "category", "sentiment", "intent", "rating", "stars", "score", "y")
# A number as people write it: ASCII digits, a point, an exponent. float() also accepts 1_000, ٣ and Infinity.
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
IDENTIFIERS = ("id", "idx", "index", "uid", "guid")


def choose_columns(
    source: str, columns: Sequence[str], text_columns: Sequence[str] | None, label_columns: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    """Return the text columns, the label columns, and a sentence about the guess (None if nothing was guessed).

    Raises:
        DataError: if a named column is missing, or no guess is safe; the text lists the columns.
    """
    lower = {name.lower(): name for name in columns}
    check_named(source, columns, [*(text_columns or ()), *(label_columns or ())])
    if text_columns is not None and len(text_columns) > 2:
        raise DataError(f"{source}: {len(text_columns)} text columns were named; one or two can be used.")
    if text_columns is not None and len(set(text_columns)) != len(text_columns):
        raise DataError(f"{source}: the text column '{text_columns[0]}' was named twice. Name two, or it once.")
    if label_columns is not None and len(set(label_columns)) != len(label_columns):
        twice = next(name for name in label_columns if list(label_columns).count(name) > 1)
        raise DataError(f"{source}: the label column '{twice}' was named twice. Name each once.")
    labels = tuple(label_columns or [lower[name] for name in LABELS if name in lower][:1])
    check_separator(source, columns)
    if not labels:
        raise DataError(
            f"{source}: which column is the label? The columns are {', '.join(columns)}. Name it: --label-column NAME"
        )
    texts = tuple(text_columns) if text_columns else _guess_texts(lower, labels)
    if not texts:
        raise DataError(
            f"{source}: which column is the text? The columns are {', '.join(columns)}. "
            "Name one or two: --text-column NAME"
        )
    if both := [name for name in labels if name in texts]:
        raise DataError(
            f"{source}: column '{both[0]}' cannot be both text and label. Name another: --label-column NAME"
        )
    guessed = [] if text_columns else [f"text is {' and '.join(repr(name) for name in texts)}"]
    guessed += [] if label_columns else [f"label is {labels[0]!r}"]
    return texts, labels, f"Guessed from the column names: {', '.join(guessed)}." if guessed else None


def check_named(source: str, columns: Sequence[str], named: Sequence[str]) -> None:
    """Check that all named columns are there.

    Raises:
        DataError: if one is not; the text lists the columns.
    """
    for name in named:
        if name not in columns:
            raise DataError(
                f"{source}: no column '{name}'.{nearest(name, columns)} The columns are {', '.join(columns)}."
            )


def check_separator(source: str, columns: Sequence[str]) -> None:
    """Check that a header is not a single column because its names have another separator.

    Raises:
        DataError: if it seems to be.
    """
    if len(columns) == 1 and (separator := next((s for s in ";\t|" if s in columns[0]), None)):
        raise DataError(
            f"{source}: its one column is {columns[0]!r}, so its fields seem to be separated by {separator!r}. "
            "A .csv file has commas between fields, a .tsv file tabs."
        )


def as_number(value: Any, where: str) -> float:
    """Return a regression label as a float.

    Strings are read as people write numbers: 1_000 and other forms that only Python accepts are refused.

    Raises:
        DataError: if it is not a finite number; `where` names its place.
    """
    text = value.strip() if isinstance(value, str) else ""
    if isinstance(value, str) and not NUMBER.fullmatch(text) and not NOT_FINITE.fullmatch(text):
        raise DataError(f"{where}: label '{value}' is not a number, and the task is a regression.")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    except (TypeError, ValueError):
        raise DataError(f"{where}: label '{value}' is not a number, and the task is a regression.") from None
    if not math.isfinite(number):
        raise DataError(f"{where}: label is {number}; it must be a finite number. Correct or remove that row.")
    return number


def _guess_texts(lower: dict[str, str], labels: Sequence[str]) -> tuple[str, ...]:
    for first, second in TEXT_PAIRS:
        if first in lower and second in lower:
            return lower[first], lower[second]
    for name in TEXTS:
        if name in lower and lower[name] not in labels:
            return (lower[name],)
    others = [name for low, name in lower.items() if name not in labels and low not in IDENTIFIERS]
    return tuple(others) if len(others) == 1 else ()


def is_integer(value: str) -> bool:
    """Whether a label is written as a whole number."""
    return re.fullmatch(r"[+-]?[0-9]+", value.strip()) is not None
