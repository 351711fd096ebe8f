import json

import pytest

from qvtune.data.records import text_dataset
from qvtune.errors import DataError
from qvtune.tasks.classification import Classification
from qvtune.tasks.examples import TextData
from qvtune.tasks.regression import Regression
from qvtune.tasks.table import task_from_dict

TASK = Classification("mine", ("a", "b", "c"), "classes", "accuracy", ("text", "text_pair"), "label")


def test_a_task_survives_json():
    assert task_from_dict(json.loads(json.dumps(TASK.to_dict()))) == TASK


def test_an_unseen_label_is_refused_with_its_place():
    assert [TASK.label_of(name, "") for name in "cab"] == [2, 0, 1]
    with pytest.raises(DataError, match=r"^m\.csv, line 2: label 'd' does not occur in the training data"):
        TASK.label_of("d", "m.csv, line 2")


def test_outputs():
    assert TASK.num_outputs == 3
    assert Regression("mine", (), "numbers", "pearson", ("text",), "label").num_outputs == 1


def test_reordered_labels_keep_every_rows_class():
    train, held = text_dataset([["x", "y", "z"]], [0, 1, 2]), text_dataset([["w"]], [2])
    data = TextData(TASK, train, {"validation": held}, ("note",))
    other = data.with_labels(["c", "a", "b"])
    assert other.task.labels == ("c", "a", "b")
    assert [other.task.labels[i] for i in other.train["label"]] == ["a", "b", "c"]
    assert other.evaluation["validation"]["label"][:] == [0]
    assert (other.train["text"][:], other.notes) == (["x", "y", "z"], ("note",))
    assert data.train["label"][:] == [0, 1, 2]
    assert data.with_labels(["a", "b", "c"]) is data
