"""What a model is given follows from the model, and is tried on it before the first step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import DECODER_WORDS, GOOD, save_tiny_bert, save_tiny_llama, write_reviews
from tokenizers import AddedToken
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DistilBertConfig,
    FunnelConfig,
    GPT2Config,
    LlamaConfig,
    RemBertConfig,
    RobertaConfig,
    RobertaModel,
    RoFormerConfig,
    XLNetConfig,
)

from qvtune.cli.main import main
from qvtune.training.readable import input_names

PLAIN, WITH_SEGMENTS = ["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]


@pytest.mark.parametrize("config", [AlbertConfig, BertConfig, FunnelConfig, RemBertConfig, RoFormerConfig, XLNetConfig])
def test_models_with_segments_are_given_them(config: type) -> None:
    assert input_names(config(), PLAIN) == input_names(config(), WITH_SEGMENTS) == WITH_SEGMENTS


@pytest.mark.parametrize(
    "config",
    [DebertaV2Config(), DistilBertConfig(), LlamaConfig(), RobertaConfig(type_vocab_size=1)],
    ids=lambda config: config.model_type,
)
def test_models_without_segments_are_not(config: Any) -> None:
    assert input_names(config, PLAIN) == input_names(config, WITH_SEGMENTS) == PLAIN


def test_nothing_is_added_to_what_takes_segments_for_words() -> None:
    assert input_names(GPT2Config(), PLAIN) == PLAIN


def write_pairs(path: Path) -> Path:
    rows = [{"first": f"the {GOOD[i % 5]} film", "second": GOOD[i % 3], "label": "ab"[i % 2]} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(model: Path, data: Path, out: Path, *words: str) -> int:
    fixed = ["--epochs", "1", "--batch-size", "8", "--precision", "fp32", "--no-keep-best"]
    return main(["train", "--model", str(model), "--data", str(data), "--out", str(out), *fixed, *words])


def test_pairs_keep_their_segments_whatever_the_tokenizer_lists(tmp_path: Path) -> None:
    """Beside plain transformers, which is told to make them."""
    bert = save_tiny_bert(tmp_path / "bert")
    telling = BertModel.from_pretrained(bert)
    with torch.no_grad():
        for weight in telling.parameters():
            if weight.ndim == 2:
                weight *= 10.0  # what a fresh model gives hangs on next to nothing that it is given
    telling.save_pretrained(bert)
    file = bert / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_input_names": PLAIN}))
    data = write_pairs(tmp_path / "pairs.jsonl")
    assert train(bert, data, tmp_path / "run", "--text-column", "first", "--text-column", "second") == 0
    assert main(f"predict --run {tmp_path}/run --data {data} --out {tmp_path}/out.jsonl".split()) == 0
    assert main(f"merge --run {tmp_path}/run --out {tmp_path}/merged".split()) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokens = AutoTokenizer.from_pretrained(bert)(
        [row["first"] for row in rows], [row["second"] for row in rows],
        padding=True, return_tensors="pt", return_token_type_ids=True,
    )  # fmt: skip
    assert tokens["token_type_ids"].max() == 1
    with torch.no_grad():
        expected = model(**tokens).logits.softmax(1)[:, 0]
        without = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits.softmax(1)[:, 0]
    found = torch.tensor([row["probabilities"]["a"] for row in rows])
    assert (found - expected).abs().max() < 1e-5
    assert (found - without).abs().max() > 1e-4
    assert "token_type_ids" in AutoTokenizer.from_pretrained(tmp_path / "merged").model_input_names


def refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    data = tmp_path / "reviews.csv"
    if not data.exists():
        write_reviews(data, 60)
    capsys.readouterr()
    assert train(model, data, tmp_path / "run", *words) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert not list((tmp_path / "run").rglob("adapter*"))
    return error


def test_a_word_without_an_embedding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert = save_tiny_bert(tmp_path / "bert")
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.add_tokens(["film"])
    tokenizer.add_tokens([AddedToken("thebest")])
    tokenizer.save_pretrained(bert)
    rows = [f"thebest {GOOD[i % 5]},{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows, ""]))
    error = refused(bert, tmp_path, capsys)
    assert "'thebest' has the id 27, and the model has embeddings for 27 (0 to 26)" in error


def test_padding_without_an_embedding(tmp_path: Path) -> None:
    """Another token pads: what it is makes no difference."""
    data = write_reviews(tmp_path / "reviews.csv", 60)
    metrics = []
    for name, padding in (("without", None), ("with", "<pad>")):
        llama = save_tiny_llama(tmp_path / name)
        tokenizer = AutoTokenizer.from_pretrained(llama)
        if padding:
            tokenizer.add_special_tokens({"pad_token": padding})
            assert tokenizer.pad_token_id == len(DECODER_WORDS)
        tokenizer.save_pretrained(llama)
        assert train(llama, data, tmp_path / f"{name}-run") == 0
        metrics.append(json.loads((tmp_path / f"{name}-run/result.json").read_text())["metrics"])
    assert metrics[0] == metrics[1]


def test_a_text_that_is_longer_than_the_positions_of_a_roberta(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of the rows of its table are for padding and what comes before it."""
    folder = save_tiny_bert(tmp_path / "roberta")
    config = RobertaConfig(
        vocab_size=27, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=130, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    rows = [f"{'the film ' * 80}{GOOD[i % 5]},{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows, ""]))
    error = refused(folder, tmp_path, capsys)
    (most,) = {int(word.rstrip(".")) for word in error.split("--max-length ")[1].split()[:1]}
    assert train(folder, tmp_path / "reviews.csv", tmp_path / "fits", "--max-length", str(most)) == 0
    assert refused(folder, tmp_path, capsys, "--max-length", str(most + 1))


def save_tiny_bart(folder: Path) -> Path:
    save_tiny_llama(folder)
    config = BartConfig(
        vocab_size=len(DECODER_WORDS) + 1, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64,
        bos_token_id=1, eos_token_id=2, pad_token_id=len(DECODER_WORDS), decoder_start_token_id=2,
        forced_eos_token_id=2,
    )  # fmt: skip
    BartModel(config).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    return folder


def test_what_ends_a_text_inside_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bart = save_tiny_bart(tmp_path / "bart")
    rows = [f"the {GOOD[i % 5]} film </s>,{'ab'[i % 2]}" for i in range(40)]
    rows[7] = "a film </s> and a plot </s>,b"
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows, ""]))
    assert "begins with 'a film and a plot' holds '</s>'" in refused(bart, tmp_path, capsys)
    (tmp_path / "good.csv").write_text("\n".join(["text,label", *rows[:7], *rows[8:], ""]))
    assert train(bart, tmp_path / "good.csv", tmp_path / "run") == 0
    words = f"predict --run {tmp_path}/run --data {tmp_path}/reviews.csv --out {tmp_path}/out.csv"
    assert main(words.split()) == 2
    assert "holds '</s>'" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
