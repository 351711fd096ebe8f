"""Cells with several labels: lists, or names with a separator between them."""

import json
from collections.abc import Sequence
from typing import Any

from qvtune.errors import DataError
from qvtune.tasks.classification import class_name

# What people write between several labels in one cell, in the order in which they are tried.
SEPARATORS = (";", "|", ",", "/", "+")
# What a column of a single label may hold.
POSITIVE, NEGATIVE = ("1", "1.0", "true"), ("0", "0.0", "false")


def separator_of(cells: Sequence[Any]) -> str | None:
    """Return what stands between the labels of cells, or None if they are lists.

    It is the separator whose parts are fewest: labels that occur alone and with others. `;` if no cell has several.
    """
    texts = [cell for cell in cells if isinstance(cell, str) and not _is_list(cell)]
    if not texts:
        return None
    return next((separator for separator in SEPARATORS if joined_cells(texts, separator)), SEPARATORS[0])


def joined_cells(texts: Sequence[str], separator: str) -> list[str]:
    """List the different texts such as "infra;web" all of whose parts occur in other texts too."""
    names = set(texts)
    parts = {name: {part.strip() for part in name.split(separator)} for name in names}
    counts: dict[str, int] = {}
    for found in parts.values():
        for part in found:
            counts[part] = counts.get(part, 0) + 1
    return sorted(
        name
        for name, found in parts.items()
        if len(found) > 1 and "" not in found and all(counts[p] > 1 for p in found)
    )


def labels_in(cell: Any, separator: str | None, place: str) -> list[str]:
    """Return the names of the labels in a cell, each once.

    Args:
        cell: a list of labels, a text, a number, or None for no label.
        separator: what stands between the labels of a text; None if cells are lists.
        place: where the cell is, for messages.

    Raises:
        DataError: if a label in it is not a name or a whole number, or is empty.
    """
    if isinstance(cell, str) and _is_list(cell):
        cell = json.loads(cell)
    if isinstance(cell, str):
        cell = [part.strip() for part in cell.split(separator)] if separator else [cell.strip()]
        cell = [] if cell == [""] else cell
    if cell is None:
        return []
    if isinstance(cell, dict):
        raise DataError(f"{place} holds an object. Give a list of labels, or names with ';' between them.")
    values = list(cell) if isinstance(cell, (list, tuple)) else [cell]
    for value in values:
        if isinstance(value, float) and not value.is_integer():
            raise DataError(f"{place} holds the number {value}, and labels are names or whole numbers.")
        if not isinstance(value, (str, int, float)) or class_name(value) == "":
            what = "an empty label" if value == "" else f"{json.dumps(value, default=str)[:40]} as a label"
            raise DataError(f"{place} holds {what}. Give a list of labels, or names with ';' between them.")
    return list(dict.fromkeys(map(class_name, values)))


def _is_list(text: str) -> bool:
    """Whether a text is a JSON list, as a CSV file may hold."""
    if not text.lstrip().startswith("["):
        return False
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False
