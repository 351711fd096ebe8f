"""Loading models."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tiny import save_tiny_bert, save_tiny_llama, write_reviews
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from qvtune.cli.main import main
from qvtune.tasks.classification import Classification
from qvtune.tasks.examples import TextData
from qvtune.tasks.regression import Regression
from qvtune.training.model import (
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
    task = (Regression if regression else Classification)("r", names, "accuracy", "accuracy", ("text",), "label")
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


def save_quantized(folder: Path, quantization: dict[str, object]) -> Path:
    """Save a model whose configuration says that its weights are quantized, though they are not."""
    save_tiny_llama(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": quantization}))
    write_reviews(folder / "reviews.csv", 40)
    return folder


def train(folder: Path) -> int:
    words = f"train --model {folder} --data {folder}/reviews.csv --max-steps 1 --precision fp32 --out {folder}/run"
    return main(words.split())


def test_a_part_saved_from_a_gguf_model_trains(tmp_path: Path) -> None:
    """transformers' models that were read from a GGUF file keep the word of it in the configuration."""
    folder = save_quantized(tmp_path / "model", {"quant_method": "gguf", "dequantize": False})
    assert train(folder) == 0
    assert main(f"merge --run {folder}/run --out {folder}/merged".split()) == 0
    assert "quantization_config" not in json.loads((folder / "merged/config.json").read_text())
    merged = AutoModelForSequenceClassification.from_pretrained(folder / "merged")
    assert all(weight.dtype == torch.float32 for weight in merged.parameters())


def test_a_quantized_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bitsandbytes")
    folder = save_quantized(tmp_path / "model", {"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert train(folder) == 2
    assert "quantized (bitsandbytes)" in capsys.readouterr().err
