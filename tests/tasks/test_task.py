import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import save_tiny_bert
from transformers import AutoTokenizer
from transformers.modeling_outputs import SequenceClassifierOutput

from qvtune.data.records import text_dataset
from qvtune.errors import DataError, RunError
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


def test_a_task_is_stored_under_the_same_names_as_ever():
    assert TASK.to_dict() == {
        "name": "mine",
        "kind": "classification",
        "labels": ("a", "b", "c"),
        "metrics": "classes",
        "main_metric": "accuracy",
        "text_columns": ("text", "text_pair"),
        "label_column": "label",
    }


def test_a_task_of_an_unknown_kind_is_not_read():
    with pytest.raises(RunError, match=r"of the kind 'regresion', and known are .* Did you mean 'regression'"):
        task_from_dict(TASK.to_dict() | {"kind": "regresion"})


NUMBERS = Regression("mine", (), "numbers", "pearson", ("text",), "label")
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(7, 3, generator=GENERATOR)
CLASSES, VALUES = torch.tensor([0, 2, 1, 1, 0, 2, 2]), torch.randn(7, generator=GENERATOR)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.25]], ids=["alike", "weighted"])
def test_the_loss_of_classes_is_torchs_and_its_parts_add_up(weights):
    total, count = TASK.loss({"logits": LOGITS}, {"labels": CLASSES}, weights), TASK.count({"labels": CLASSES}, weights)
    weight = None if weights is None else torch.tensor(weights)
    assert torch.equal(total, torch.nn.functional.cross_entropy(LOGITS, CLASSES, weight, reduction="sum"))
    assert total / count == pytest.approx(float(torch.nn.functional.cross_entropy(LOGITS, CLASSES, weight)), rel=1e-6)
    assert count.dtype == total.dtype == torch.float32
    halves = (slice(0, 2), slice(2, 7))
    parts = [TASK.loss({"logits": LOGITS[p]}, {"labels": CLASSES[p]}, weights) for p in halves]
    assert sum(parts) == pytest.approx(float(total), rel=1e-6)
    assert sum(TASK.count({"labels": CLASSES[p]}, weights) for p in halves) == count
    assert count == (7 if weights is None else 2 * 0.5 + 2 * 2.0 + 3 * 1.25)


def test_the_loss_of_numbers_is_their_squared_error():
    outputs = SequenceClassifierOutput(logits=LOGITS[:, :1].bfloat16())
    total, count = NUMBERS.loss(outputs, {"labels": VALUES}), NUMBERS.count({"labels": VALUES})
    assert float(total) == pytest.approx(float(((LOGITS[:, 0].bfloat16().float() - VALUES) ** 2).sum()), rel=1e-6)
    assert float(count) == 7
    kept = NUMBERS.scores(SimpleNamespace(logits=outputs.logits), {})
    assert (kept.shape, kept.dtype) == ((7, 1), np.float32)
    assert NUMBERS.losses(kept, VALUES.numpy()).sum() == pytest.approx(float(total), rel=1e-6)


def test_what_is_written_of_predictions():
    (first,) = TASK.predictions(LOGITS[:1].numpy(), Dataset.from_dict({"text": ["a"]}))
    assert first["label"] == "abc"[int(LOGITS[0].argmax())]
    assert list(first["probabilities"].values()) == pytest.approx(LOGITS[0].softmax(0).tolist(), rel=1e-6)
    assert NUMBERS.predictions(VALUES[:2, None].numpy(), Dataset.from_dict({"text": ["a", "b"]})) == [
        {"score": float(value)} for value in VALUES[:2]
    ]


def test_a_collator_pads_rows_with_and_without_labels(tmp_path):
    padding = AutoTokenizer.from_pretrained(save_tiny_bert(tmp_path / "bert"))
    rows = [{"input_ids": [5, 6], "labels": 1}, {"input_ids": [7], "labels": 0}]
    batch = TASK.collator(padding)(rows)
    assert batch["input_ids"].tolist() == [[5, 6], [7, padding.pad_token_id]]
    assert batch["labels"].tolist() == [1, 0]
    assert "labels" not in TASK.collator(padding)([{"input_ids": [5]}])
