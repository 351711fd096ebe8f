"""Telemetry of a run: what is logged, that training is the same without it, and that a resumed run logs the same."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tiny import DECODER_WORDS, save_tiny_bert, save_tiny_gpt2, write_reviews
from tokenizers import processors
from transformers import AutoTokenizer, T5Config, T5ForSequenceClassification

from qvtune.training.config import make_config
from qvtune.training.run import run

QUIET = Console(quiet=True)
BY_STEP = ("step/query", "step/value", "output/query", "output/value")
ALL = ("update/query", "update/value", *BY_STEP)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("telemetry")
    save_tiny_bert(place / "bert")
    save_tiny_gpt2(place / "gpt2")
    save_tiny_t5(place / "t5")
    write_reviews(place / "reviews.csv", 60)
    return place


def save_tiny_t5(folder: Path) -> None:
    """An encoder-decoder, whose texts end with its end token, and whose dropout is on."""
    save_tiny_gpt2(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, pad_token="<unk>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": len(DECODER_WORDS)}
    config = T5Config(**sizes, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, num_labels=2)
    (folder / "config.json").unlink()
    T5ForSequenceClassification(config).save_pretrained(folder)


def train(place: Path, out: Path, model: str = "bert", **options: object) -> dict:
    settings = {
        "model": str(place / model), "data": str(place / "reviews.csv"), "out": str(out), "batch_size": 8,
        "epochs": 2, "lr": 3e-3, "logging_steps": 2, "precision": "fp32",
    }  # fmt: skip
    return run(make_config(settings | options), QUIET)


def logged(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def weights(out: Path) -> dict[str, torch.Tensor]:
    files = [*out.glob("adapter/*.safetensors"), *out.glob("model/*.safetensors")]
    return {name: value for file in files for name, value in load_file(file).items()}


def without_warnings(lines: list[dict]) -> list[dict]:
    return [{name: value for name, value in line.items() if name != "warnings"} for line in lines]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fast": False, "accumulation": 2},
        {"precision": "bf16", "gradient_checkpointing": True},
        {"method": "full", "roles": "qkvo"},
        {"method": "dora", "precision": "bf16"},
        {"method": "adalora"},
        {"method": "sift"},
        {"method": "bitfit", "precision": "bf16", "fast": False},
        {"model": "gpt2", "precision": "bf16"},
        {"model": "gpt2", "fast": False, "method": "full"},
        {"model": "t5"},
        {"model": "t5", "gradient_checkpointing": True, "fast": False},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "default",
)
def test_training_is_the_same_without(options: dict, place: Path, tmp_path: Path) -> None:
    results, states = [], []
    for name, log_updates in (("with", True), ("without", False)):
        results.append(train(place, tmp_path / name, log_updates=log_updates, **options))
        states.append(torch.get_rng_state())
    lines = logged(tmp_path / "with")
    measured = [line for line in lines if "output/value" in line]
    assert [line["step"] for line in measured] == [
        line["step"] for line in lines if "loss" in line and not line["step"] % 2
    ]
    expected = set(ALL) - (
        {name for name in ALL if "output" not in name} if options.get("method") == "bitfit" else set()
    )
    assert all(expected <= line.keys() for line in measured)
    assert all(0 < line[name] < math.inf for line in measured for name in expected)
    plain = [
        {name: v for name, v in line.items() if not name.startswith(("update/", "step/", "output/"))} for line in lines
    ]
    assert without_warnings(plain) == without_warnings(logged(tmp_path / "without"))
    assert results[0]["metrics"] == results[1]["metrics"]
    first, second = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert first.keys() == second.keys() != set()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(*states)


@pytest.mark.parametrize("options", [{}, {"model": "gpt2", "method": "full"}, {"precision": "bf16"}])
def test_a_resumed_run_logs_what_a_straight_one_does(options: dict, place: Path, tmp_path: Path) -> None:
    options = options | {"eval_steps": 4, "keep_best": False}
    train(place, tmp_path / "straight", **options)
    shutil.copytree(tmp_path / "straight", tmp_path / "killed")
    for name in ("result.json", "adapter", "model", "checkpoints/checkpoint-14"):
        path = tmp_path / "killed" / name
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
    train(place, tmp_path / "killed", **options)
    lines = logged(tmp_path / "straight")
    assert logged(tmp_path / "killed") == lines
    assert [line["step"] for line in lines if "output/value" in line] == [2, 4, 6, 8, 10, 12, 14]


def test_a_step_is_measured_where_it_is_logged_by_steps(place: Path, tmp_path: Path) -> None:
    """A line that is written because of a checkpoint has how far the weights have moved alone."""
    train(place, tmp_path / "run", eval_steps=3, keep_best=False)
    lines = {line["step"]: line for line in logged(tmp_path / "run") if "loss" in line}
    assert all(("output/value" in lines[step]) == (step % 2 == 0) for step in lines)
    assert {3, 9} <= lines.keys()
    assert "update/value" in lines[3]


def test_the_first_step_is_the_whole_movement(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "run", "bert", logging_steps=1, max_steps=2, method="full", lr=1e-4)
    first, second = (line for line in logged(tmp_path / "run") if "loss" in line)
    for role in ("query", "value"):
        assert first[f"step/{role}"] == pytest.approx(first[f"update/{role}"], rel=1e-3)
        assert second[f"step/{role}"] < 0.8 * second[f"update/{role}"]


def test_a_head_alone_has_no_telemetry(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "run", method="head")
    assert not [
        name for line in logged(tmp_path / "run") for name in line if name.startswith(("update/", "step/", "output/"))
    ]
