"""Which kind of task labels make, and the task and the examples that come of it."""

from decimal import Decimal

import pytest

from qvtune.data.tables import Table
from qvtune.errors import DataError
from qvtune.tasks.guess import guess_kind, read_labelled


def rows(texts, labels, pairs=None):
    cells = {"text": texts, "label": labels} | ({"text_pair": pairs} if pairs else {})
    places = [f"m.csv, line {n}" for n in range(2, len(labels) + 2)]
    return Table("m.csv", tuple(cells), list(zip(*cells.values(), strict=True)), places)


def made(table, kind=None):
    """Return the task of a table, and its examples."""
    found, read, _ = read_labelled(table, kind=kind)
    task = found.from_records("mine", read)
    return task, task.examples(read)


KINDS = {
    "words": (["good", "bad"], "classification"),
    "integers": ([0, 1], "classification"),
    "booleans": ([True, False], "classification"),
    "floats": ([0.0, 1.0], "regression"),
    "integers and a float": ([0, 1, 0.5], "regression"),
    "written integers": (["0", " 1 ", "-1", "+1"], "classification"),
    "written floats": (["0", "1.5"], "regression"),
    "written exponents": (["1e-3", "2"], "regression"),
    "a word among numbers": (["1.5", "2.5", "n/a"], "classification"),
    "version numbers": (["1.2.3", "1.2"], "classification"),
    "underscores": (["1_0", "1_1", "2_0"], "classification"),
    "underscores and a point": (["1_0.5", "2.5"], "classification"),
    "Arabic digits": (["٣", "٤.٥"], "classification"),
    "full-width digits": (["１.５", "２.５"], "classification"),
    "missing all": (["nan", "nan"], "classification"),
    "infinite all": (["inf", "-Infinity", "nan"], "classification"),
    "missing among whole numbers": (["1", "2", "nan"], "classification"),
    "missing among numbers": (["1.5", "2", " NaN "], "regression"),
    "numbers without a digit before the point": ([".5", "-.5", "1."], "regression"),
    "hexadecimal": (["0x1", "0x2"], "classification"),
    "superscript digit": (["²", "1"], "classification"),
    "decimals": ([Decimal("1.50"), Decimal("2.00")], "regression"),
    "whole decimals": ([Decimal(1), Decimal(2)], "classification"),
}


@pytest.mark.parametrize(("values", "kind"), KINDS.values(), ids=KINDS)
def test_the_kind_of_task_follows_from_the_labels(values, kind):
    assert guess_kind(values) == kind


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
    task, dataset = made(rows(["a", "b", "c"], labels))
    assert (task.kind, task.labels, task.num_outputs) == ("classification", names, len(names))
    assert (task.metric_set, task.main_metric) == ("classes", "accuracy")
    assert dataset["label"][:] == ids
    assert dataset["text"][:] == ["a", "b", "c"]


def test_floats_become_a_regression_and_a_named_kind_is_obeyed():
    numbers = rows(["a", "b"], ["1.5", "2"], pairs=["c", "d"])
    task, dataset = made(numbers)
    assert (task.kind, task.labels, task.num_outputs) == ("regression", (), 1)
    assert (task.metric_set, task.main_metric, task.text_columns) == ("numbers", "pearson", ("text", "text_pair"))
    assert dataset["label"][:] == [1.5, 2.0]
    assert dataset["text_pair"][:] == ["c", "d"]
    assert made(numbers, "classification")[0].labels == ("1.5", "2")
    assert made(rows(["a", "b"], [1, 5]), "regression")[1]["label"][:] == [1.0, 5.0]


def test_a_written_nan_in_a_regression_is_refused_with_its_line():
    with pytest.raises(DataError, match=r"^m\.csv, line 3: label is nan"):
        made(rows(["a", "b"], ["0.5", "nan"]))


def test_an_empty_text_and_a_whole_character_are_kept():
    assert made(rows(["", "😀"], ["x", "y"]))[1]["text"][:] == ["", "😀"]


def test_one_class_or_one_number_is_nothing_to_learn():
    with pytest.raises(DataError, match=r"^m\.csv: every row has the label 'x'; there is nothing to tell apart"):
        made(rows(["a", "b"], ["x", " x"]))
    with pytest.raises(DataError, match=r"^m\.csv: every row has the label 0\.5; there is nothing to learn"):
        made(rows(["a", "b"], [0.5, 0.5]))


def test_a_class_that_training_never_saw_is_refused_with_its_line():
    task, _ = made(rows(["a", "b"], ["x", "y"]))
    with pytest.raises(
        DataError, match=r"^m\.csv, line 3: label 'z' does not occur in the training data, which has x, y"
    ):
        task.examples(task.read(rows(["a", "b"], ["x", "z"]))[0])


def test_a_word_in_a_regression_is_refused_with_its_line():
    task, _ = made(rows(["a", "b"], [0.5, 1.5]))
    with pytest.raises(DataError, match=r"^m\.csv, line 3: label 'z' is not a number"):
        task.examples(task.read(rows(["a", "b"], ["0.5", "z"]))[0])
