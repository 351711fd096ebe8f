"""Loading models: what is decided before any weight is read."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tiny import save_tiny_bert
from transformers import AutoConfig, BertConfig, BertForSequenceClassification, BertForTokenClassification

from qvtune.data.task import Task, TextData
from qvtune.train.model import (
    ModelSource,
    find_model,
    load_config,
    load_model,
    load_tokenizer,
    match_labels,
    text_length,
)


@pytest.mark.parametrize(
    ("asked", "positions", "read_by_tokenizer", "expected"),
    [
        (None, 2048, 10**30, 512),
        (None, 128, 10**30, 128),
        (None, 130, 128, 128),
        (None, 0, 10**30, 512),
        (64, 128, 10**30, 64),
        (1024, 2048, 512, 1024),
    ],
)
def test_texts_are_as_long_as_the_model_reads(
    asked: int | None, positions: int, read_by_tokenizer: int, expected: int
) -> None:
    config = BertConfig(max_position_embeddings=positions)
    assert text_length(asked, config, SimpleNamespace(model_max_length=read_by_tokenizer)) == expected


def bring_head(folder: Path, kind: type, outputs: int, **labels: object) -> tuple[ModelSource, torch.Tensor]:
    """Save a tiny BERT with a trained head; return where it is and the head's weight."""
    save_tiny_bert(folder)
    config = AutoConfig.from_pretrained(folder, num_labels=outputs, **labels)
    model = kind.from_pretrained(folder, config=config)
    model.save_pretrained(folder)
    return find_model(str(folder)), model.classifier.weight.detach().clone()


NAMED = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}


@pytest.mark.parametrize(
    ("kind", "outputs", "labels", "note", "is_kept"),
    [
        (BertForSequenceClassification, 2, {}, "have no names.*LABEL_0 is 'bad', LABEL_1 is 'good'.*--new-head", True),
        (BertForSequenceClassification, 1, {}, "head of one output.*--new-head", True),
        (BertForSequenceClassification, 2, NAMED, None, True),
        (BertForTokenClassification, 2, NAMED, r"another kind of task \(BertForTokenClassification\)", False),
        (BertForTokenClassification, 5, {}, r"another kind of task \(BertForTokenClassification\)", False),
    ],
    ids=["unnamed", "one output", "the same labels", "tagging", "tagging with other labels"],
)
def test_a_head_is_taken_over_with_a_note_or_not_at_all(
    tmp_path: Path, kind: type, outputs: int, labels: dict, note: str | None, is_kept: bool
) -> None:
    source, head = bring_head(tmp_path / "bert", kind, outputs, **labels)
    regression = outputs == 1
    names = () if regression else ("bad", "good")
    task = Task(
        "r", "regression" if regression else "classification", names, "accuracy", "accuracy", ("text",), "label"
    )
    data = TextData(task, Dataset.from_dict({"text": ["a"], "label": [0]}), {})
    config = load_config(source)
    matched = match_labels(source, config, data, new_head=False)
    if note is None:
        assert matched.notes == ()
    else:
        (said,) = matched.notes
        assert re.search(note, said)
    assert match_labels(source, config, data, new_head=True).notes == ()
    torch.manual_seed(5)
    model = load_model(source, config, matched.task, load_tokenizer(source, config))
    assert torch.equal(model.classifier.weight, head) == is_kept
