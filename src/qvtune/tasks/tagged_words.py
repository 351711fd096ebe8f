"""Tables with a list of words and a list of tags in every row, and texts with the places of their words."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from qvtune.data.columns import LABELS, check_named
from qvtune.data.records import Records, check_characters
from qvtune.data.tables import Table
from qvtune.errors import DataError

# Names of the columns, in lower case.
WORDS = ("tokens", "words", "token", "word")
TAGS = ("tags", "ner_tags", "pos_tags", "chunk_tags", "labels", "ner", "entities")
# The words of a text that is not divided into words.
WORD = re.compile(r"\w+|[^\w\s]")


def find_columns(table: Table) -> tuple[str | None, str | None]:
    """Return the columns of words and tags: lists of one length in the first row, the words in a column named so."""
    first = {name: table.column(name)[0] for name in table.columns}
    lists = {name: cell for name, cell in first.items() if isinstance(cell, (list, tuple))}
    if any(name.lower() in LABELS and name not in lists for name in table.columns):
        return None, None  # a label of the whole text
    words = next((name for name in lists if name.lower() in WORDS), None)
    others = [name for name in lists if words is not None and name != words]
    named = [name for name in others if name.lower() in TAGS or name.lower().endswith("tags")]
    alike = [name for name in others if words is not None and len(lists[name]) == len(lists[words])]
    return words, next(iter(named or alike), None)


def read_columns(
    table: Table, text_columns: Sequence[str] | None, label_columns: Sequence[str] | None
) -> tuple[Records, str | None]:
    """Pick the columns of words and tags, and check that every word has a tag.

    Args:
        table: the rows.
        text_columns: the name of the column of words; found when None.
        label_columns: the name of the column of tags; found when None.

    Returns:
        The records, and a sentence about the columns that were found, or None.

    Raises:
        DataError: if there are no such columns, or a row has other numbers of words and tags, or no words.
    """
    check_named(table.source, table.columns, [*(text_columns or ()), *(label_columns or ())])
    found = find_columns(table)
    words = text_columns[0] if text_columns else found[0]
    tags = label_columns[0] if label_columns else found[1]
    if words is None or tags is None:
        missing, option = ("words", "--text-column") if words is None else ("tags", "--label-column")
        raise DataError(
            f"{table.source}: which column holds the list of {missing} of every row? The columns are "
            f"{', '.join(table.columns)}. Name it: {option} NAME"
        )
    texts, labels = table.column(words), table.column(tags)
    for text, of_text, place in zip(texts, labels, table.places, strict=True):
        _check_list(text, words, place)
        _check_list(of_text, tags, place)
        check_characters(words, text, place)
        if len(text) != len(of_text):
            raise DataError(
                f"{place}: column '{words}' holds {len(text)} words, and '{tags}' {len(of_text)} tags. Give every word "
                "one tag."
            )
        if not text:
            raise DataError(f"{place}: column '{words}' holds no words. Remove that row.")
    guessed = [] if text_columns else [f"words are '{words}'"]
    guessed += [] if label_columns else [f"tags are '{tags}'"]
    note = f"Guessed from the columns: {', '.join(guessed)}." if guessed else None
    return Records(table.source, (words,), (tags,), (texts,), labels, table.places), note


def read_texts(table: Table, name: str) -> list[Any]:
    """Return the cells of a column of texts or of lists of words.

    Raises:
        DataError: if one is neither.
    """
    cells = table.column(name)
    for cell, place in zip(cells, table.places, strict=True):
        if not isinstance(cell, str):
            _check_list(cell, name, place)
        check_characters(name, cell, place)
    return cells


def text_dataset(cells: Sequence[Any]) -> Dataset:
    """Return `text` and the `spans` of its words in characters.

    Args:
        cells: lists of words, which are put together with a space between, or texts, which are divided into words and
            signs.
    """
    texts: list[str] = []
    spans: list[list[list[int]]] = []
    for cell in cells:
        if isinstance(cell, str):
            texts.append(cell)
            spans.append([list(found.span()) for found in WORD.finditer(cell)])
            continue
        ends = np.cumsum([len(word) + 1 for word in cell]) - 1
        texts.append(" ".join(cell))
        spans.append([[int(end) - len(word), int(end)] for word, end in zip(cell, ends, strict=True)])
    return Dataset.from_dict({"text": texts, "spans": spans})


def _check_list(cell: Any, name: str, place: str) -> None:
    if not isinstance(cell, (list, tuple)):
        what = "missing" if cell is None else f"a {type(cell).__name__}"
        raise DataError(f"{place}: column '{name}' is {what}, and should be a list with an entry for every word.")
    odd = next((part for part in cell if not isinstance(part, str) or not part.strip()), None)
    if odd is not None or None in cell:
        what = "an empty text" if isinstance(odd, str) else f"{odd!r}, which is no text"
        raise DataError(f"{place}: column '{name}' holds {what}. Words and tags are texts, such as B-person.")
