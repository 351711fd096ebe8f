import math
import re

import pytest

from qvtune.data.records import check_characters, check_single_labels, take_columns, text_dataset
from qvtune.data.tables import Table
from qvtune.errors import DataError


def records(texts, labels, pairs=None):
    cells = {"text": texts, "label": labels} | ({"text_pair": pairs} if pairs else {})
    places = [f"m.csv, line {n}" for n in range(2, len(labels) + 2)]
    table = Table("m.csv", tuple(cells), list(zip(*cells.values(), strict=True)), places)
    read, _ = take_columns(table, None, None)
    check_single_labels(read)
    return read


@pytest.mark.parametrize("missing", ["", "  ", "\t", None], ids=["empty", "spaces", "tab", "none"])
def test_a_missing_label_is_refused_with_its_line(missing):
    with pytest.raises(DataError, match=r"^m\.csv, line 3: column 'label' is empty"):
        records(["a", "b", "c"], ["x", missing, "y"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("others", [[0.5, 1.5], ["x", "y"], [1, 2]], ids=["floats", "words", "integers"])
def test_a_label_that_is_not_finite_is_refused_with_its_line(value, others):
    with pytest.raises(DataError, match=r"^m\.csv, line 4: label is -?(nan|inf); it must be a finite number"):
        records(["a", "b", "c"], [*others, value])


@pytest.mark.parametrize("value", [["x", "y"], [], {"x": 1}, [("x", 1)]], ids=["list", "no item", "dict", "pairs"])
def test_several_labels_in_a_row_are_refused(value):
    with pytest.raises(DataError, match=r"^m\.csv, line 2: column 'label' holds several values"):
        records(["a", "b"], [value, "x"])


TEXTS = {
    "missing": (None, "column 'text' is missing"),
    "number": (5, "column 'text' is a int, not text"),
    "list": (["a"], "column 'text' is a list, not text"),
    "half a character": ("a \ud83d b", "column 'text' holds half a character"),
}


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_what_is_no_text_is_refused_with_its_line(text, message):
    with pytest.raises(DataError, match=r"^m\.csv, line 3: " + re.escape(message)):
        records(["a", text], ["x", "y"])


def test_half_a_character_in_a_label_is_refused_with_its_line():
    with pytest.raises(DataError, match=r"^m\.csv, line 3: column 'label' holds half a character"):
        records(["a", "b"], ["x", "y\ud83d"])


@pytest.mark.parametrize("value", ["\udc00", ["a", "\udc00"], {"a": {"b": "\ud83d"}}], ids=["text", "list", "object"])
def test_half_a_character_is_found_wherever_it_is(value):
    with pytest.raises(DataError, match=r"^m\.csv, line 3: column 'other' holds half a character"):
        check_characters("other", value, "m.csv, line 3")
    check_characters("other", ["😀", 1, None, {"é": 2.5}], "m.csv, line 3")


def test_an_empty_text_and_a_whole_character_are_kept():
    assert records(["", "😀"], ["x", "y"]).texts == (["", "😀"],)


def test_text_dataset_has_only_the_columns_that_there_are():
    assert text_dataset([["a"]]).column_names == ["text"]
    assert text_dataset([["a"], ["b"]], [1]).column_names == ["text", "text_pair", "label"]
