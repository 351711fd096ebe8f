"""Recognise data for a model that writes whose columns have other names than those that are known."""

from collections.abc import Callable, Sequence
from typing import Any

from qvtune.data.columns import LABELS

CHATS = ("conversations", "conversation", "dialog", "dialogue", "turns")
# Columns with generated text, and their task.
GENERATED = (
    ("prompt", "chosen"), ("instruction", "output"), ("input", "output"), ("article", "highlights"),
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
            return (
                f"the column '{lower[name]}' holds chats. Messages with role and content are learned with --task-type "
                f"completion --text-column {lower[name]}; other forms, such as from and value, are not read."
            )
    for what, answer in GENERATED:
        if what in lower and answer in lower:
            return (
                f"the columns '{lower[what]}' and '{lower[answer]}' seem to be for a model that writes. Then give "
                f"--task-type completion --text-column {lower[what]} --label-column {lower[answer]}. If one of these "
                "holds labels, name it: --label-column NAME"
            )
    return None
