"""Recognise data for other tasks: chats, instructions, tags of words. No choice of columns would make them work."""

from collections.abc import Callable, Sequence
from typing import Any

from qvtune.data.columns import LABELS

SUPPORTED = (
    "qvtune learns one label or one number for a text, or for two: classification and regression. Give data with a "
    "column of texts and a column of labels."
)
CHATS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns")
# Columns with generated text, and their task.
GENERATED = (
    ("prompt", "completion"), ("prompt", "response"), ("prompt", "chosen"), ("chosen", "rejected"),
    ("instruction", "output"), ("instruction", "response"), ("input", "output"), ("article", "highlights"),
    ("document", "summary"),
)  # fmt: skip
TOKENS = ("tokens", "words")


def foreign_task(columns: Sequence[str], first: Callable[[str], Any]) -> str | None:
    """Say which task a file without a label column seems to be for, or return None.

    Args:
        columns: names of all columns.
        first: the first cell of a column.
    """
    lower = {name.lower(): name for name in columns}
    if any(name in lower for name in LABELS):
        return None
    for name in CHATS:
        if name in lower and isinstance(first(lower[name]), list):
            return f"the column '{lower[name]}' holds chats, for a model that writes. {SUPPORTED}"
    if tags := _tags(columns, first):
        return f"the column '{tags}' holds a tag for every word. {SUPPORTED}"
    for what, answer in GENERATED:
        if what in lower and answer in lower:
            return (
                f"the columns '{lower[what]}' and '{lower[answer]}' seem to be for a model that writes. {SUPPORTED} If "
                "one of these holds labels, name it: --label-column NAME"
            )
    return None


def several_values(name: str, columns: Sequence[str], cell: Callable[[str], Any]) -> str:
    """Say what a label with several values seems to be.

    Args:
        name: the label's column.
        columns: names of all columns.
        cell: the cell of a column in the label's row.
    """
    value = cell(name)
    if value and all(isinstance(part, dict) for part in value) and not isinstance(value, dict):
        return f"column '{name}' holds a list of objects. {SUPPORTED}"
    if name == _tags(columns, cell):
        return f"column '{name}' holds a tag for every word. {SUPPORTED}"
    return f"column '{name}' holds several values. Give every row one label."


def _tags(columns: Sequence[str], cell: Callable[[str], Any]) -> str | None:
    """Return the column with a tag for every word: a list as long as that of the words, or a column named so."""
    lists = {name: value for name in columns if isinstance(value := cell(name), list)}
    lengths = [len(value) for name, value in lists.items() if name.lower() in TOKENS]
    others = {name: value for name, value in lists.items() if name.lower() not in TOKENS}
    return next((n for n, value in others.items() if n.lower().endswith("tags") or len(value) in lengths), None)
