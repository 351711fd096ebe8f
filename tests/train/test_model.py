"""Loading models."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import save_tiny_llama, write_reviews
from transformers import AutoModelForSequenceClassification, BertConfig

from qvtune.cli.main import main
from qvtune.train.model import text_length


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
