import math
import re

import pytest

from qvtune.data.records import check_characters, make_dataset, make_task, take_columns, text_dataset
from qvtune.errors import DataError


def records(texts, labels, pairs=None):
    cells = {"text": texts, "label": labels} | ({"text_pair": pairs} if pairs else {})
    places = [f"m.csv, line {n}" for n in range(2, len(labels) + 2)]
    return take_columns("m.csv", list(cells), cells.__getitem__, places, None, None)[0]


LABELS = {
    "words": (["good", "bad", " good"], ("bad", "good"), [1, 0, 1]),
    "integers": ([10, 9, 9], ("9", "10"), [1, 0, 0]),
    "written integers": (["10", "9", "9"], ("9", "10"), [1, 0, 0]),
    "signed": (["+1", "-1", "-1"], ("-1", "+1"), [1, 0, 0]),
    "booleans": ([True, False, True], ("false", "true"), [1, 0, 1]),
    "zero is a label": ([0, 1, 0], ("0", "1"), [0, 1, 0]),
    "false is a label": ([False, True, False], ("false", "true"), [0, 1, 0]),
}


@pytest.mark.parametrize(("labels", "names", "ids"), LABELS.values(), ids=LABELS)
def test_labels_become_classes(labels, names, ids):
    made = records(["a", "b", "c"], labels)
    task = make_task("mine", made)
    assert (task.kind, task.labels, task.num_outputs) == ("classification", names, len(names))
    assert (task.metrics, task.main_metric) == ("classes", "accuracy")
    dataset = make_dataset(made, task)
    assert dataset["label"][:] == ids
    assert dataset["text"][:] == ["a", "b", "c"]


def test_floats_become_a_regression_and_a_named_kind_is_obeyed():
    made = records(["a", "b"], ["1.5", "2"], pairs=["c", "d"])
    task = make_task("mine", made)
    assert (task.kind, task.labels, task.num_outputs) == ("regression", (), 1)
    assert (task.metrics, task.main_metric, task.text_columns) == ("numbers", "pearson", ("text", "text_pair"))
    dataset = make_dataset(made, task)
    assert dataset["label"][:] == [1.5, 2.0]
    assert dataset["text_pair"][:] == ["c", "d"]
    assert make_task("mine", made, "classification").labels == ("1.5", "2")
    integers = records(["a", "b"], [1, 5])
    assert make_dataset(integers, make_task("mine", integers, "regression"))["label"][:] == [1.0, 5.0]


@pytest.mark.parametrize("missing", ["", "  ", "\t", None], ids=["empty", "spaces", "tab", "none"])
def test_a_missing_label_is_refused_with_its_line(missing):
    with pytest.raises(DataError, match=r"^m\.csv, line 3: column 'label' is empty"):
        records(["a", "b", "c"], ["x", missing, "y"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("others", [[0.5, 1.5], ["x", "y"], [1, 2]], ids=["floats", "words", "integers"])
def test_a_label_that_is_not_finite_is_refused_with_its_line(value, others):
    with pytest.raises(DataError, match=r"^m\.csv, line 4: label is -?(nan|inf); it must be a finite number"):
        records(["a", "b", "c"], [*others, value])


def test_a_written_nan_in_a_regression_is_refused_with_its_line():
    with pytest.raises(DataError, match=r"^m\.csv, line 3: label is nan"):
        make_task("mine", records(["a", "b"], ["0.5", "nan"]))


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
    made = records(["", "😀"], ["x", "y"])
    assert make_dataset(made, make_task("mine", made))["text"][:] == ["", "😀"]


def test_one_class_or_one_number_is_nothing_to_learn():
    with pytest.raises(DataError, match=r"^m\.csv: every row has the label 'x'; there is nothing to tell apart"):
        make_task("mine", records(["a", "b"], ["x", " x"]))
    with pytest.raises(DataError, match=r"^m\.csv: every row has the label 0\.5; there is nothing to learn"):
        make_task("mine", records(["a", "b"], [0.5, 0.5]))


def test_a_class_that_training_never_saw_is_refused_with_its_line():
    task = make_task("mine", records(["a", "b"], ["x", "y"]))
    with pytest.raises(
        DataError, match=r"^m\.csv, line 3: label 'z' does not occur in the training data, which has x, y"
    ):
        make_dataset(records(["a", "b"], ["x", "z"]), task)


def test_a_word_in_a_regression_is_refused_with_its_line():
    task = make_task("mine", records(["a", "b"], [0.5, 1.5]))
    with pytest.raises(DataError, match=r"^m\.csv, line 3: label 'z' is not a number"):
        make_dataset(records(["a", "b"], ["0.5", "z"]), task)


def test_text_dataset_has_only_the_columns_that_there_are():
    assert text_dataset([["a"]]).column_names == ["text"]
    assert text_dataset([["a"], ["b"]], [1]).column_names == ["text", "text_pair", "label"]
