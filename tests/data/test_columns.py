import math
import re

import pytest

from qvtune.data.columns import as_number, choose_columns
from qvtune.errors import DataError

GUESSES = {
    "text and label": ("text label", ("text",), "label"),
    "order does not matter": ("label text", ("text",), "label"),
    "upper case keeps its spelling": ("Text LABEL", ("Text",), "LABEL"),
    "pair": ("id sentence1 sentence2 label", ("sentence1", "sentence2"), "label"),
    "premise and hypothesis": ("hypothesis premise y", ("premise", "hypothesis"), "y"),
    "question with its sentence": ("question sentence label", ("question", "sentence"), "label"),
    "question alone": ("question label", ("question",), "label"),
    "text with its pair": ("text text_pair label", ("text", "text_pair"), "label"),
    "half a pair is one text": ("sentence1 label", ("sentence1",), "label"),
    "reviews": ("id review sentiment", ("review",), "sentiment"),
    "only one left": ("idx utterance intent", ("utterance",), "intent"),
    "label before score": ("text score label", ("text",), "label"),
}


@pytest.mark.parametrize(("columns", "texts", "label"), GUESSES.values(), ids=GUESSES)
def test_columns_are_guessed_and_the_guess_is_told(columns, texts, label):
    found, found_label, note = choose_columns("m.csv", columns.split(), None, None)
    assert (found, found_label) == (texts, (label,))
    assert note == f"Guessed from the column names: text is {' and '.join(map(repr, texts))}, label is {label!r}."


def test_named_columns_are_used_though_others_would_be_guessed():
    columns = ["text", "label", "summary", "topic"]
    assert choose_columns("m.csv", columns, ["summary"], ["topic"]) == (("summary",), ("topic",), None)
    assert choose_columns("m.csv", columns, ["summary", "text"], ["topic"])[:2] == (("summary", "text"), ("topic",))
    assert choose_columns("m.csv", columns, ["summary"], None)[2] == "Guessed from the column names: label is 'label'."
    assert choose_columns("m.csv", columns, None, ["topic"])[2] == "Guessed from the column names: text is 'text'."


REFUSED = {
    "misspelled text": ("review label", ["reveiw"], None, "no column 'reveiw'. Did you mean 'review'? The columns are"),
    "misspelled label": ("review label", None, "lable", "no column 'lable'. Did you mean 'label'?"),
    "nothing near": ("review label", ["zzz"], None, "no column 'zzz'. The columns are review, label."),
    "no label": ("text topic", None, None, "which column is the label? The columns are text, topic."),
    "no text": ("a b label", None, None, "which column is the text? The columns are a, b, label."),
    "only identifiers": ("id idx label", None, None, "which column is the text?"),
    "three texts": ("a b c label", ["a", "b", "c"], None, "3 text columns were named; one or two"),
    "text is the label": ("text label", ["label"], None, "column 'label' cannot be both text and label"),
    "a label twice": ("text a b", None, "a a", "the label column 'a' was named twice"),
    "named twice": ("text label", ["text"], "text", "column 'text' cannot be both text and label"),
}


@pytest.mark.parametrize(("columns", "texts", "label", "message"), REFUSED.values(), ids=REFUSED)
def test_an_unsafe_guess_is_refused(columns, texts, label, message):
    with pytest.raises(DataError, match=r"^m\.csv: " + re.escape(message)):
        choose_columns("m.csv", columns.split(), texts, label and label.split())


def test_numbers_are_read_and_others_refused_with_their_place():
    assert [as_number(v, "") for v in (2, "2.5", " -1e3 ", True)] == [2.0, 2.5, -1000.0, 1.0]
    for value in ("many", "", None, [1], "1,5", "1_0", "٣", "1e", "0x1"):
        with pytest.raises(DataError, match=r"^m\.csv, line 7: label .* is not a number, and the task is a regression"):
            as_number(value, "m.csv, line 7")
    for value in (math.nan, math.inf, "-inf", "NaN", 10**400, "1e999", "9" * 400):
        with pytest.raises(DataError, match=r"^m\.csv, line 7: label is (nan|inf|-inf); it must be a finite number"):
            as_number(value, "m.csv, line 7")
