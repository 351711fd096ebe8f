"""Recognise data for other tasks: chats and instructions. No choice of columns would make them work."""

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
    for what, answer in GENERATED:
        if what in lower and answer in lower:
            return (
                f"the columns '{lower[what]}' and '{lower[answer]}' seem to be for a model that writes. {SUPPORTED} If "
                "one of these holds labels, name it: --label-column NAME"
            )
    return None
