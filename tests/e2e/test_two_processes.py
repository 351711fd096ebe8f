"""Data-parallel training by two CPU processes with gloo, as far as a machine without GPUs can go."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny_bert, write_reviews

from qvtune.cli.main import main


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(tmp_path: Path) -> None:
    """With 7 examples to evaluate, which two do not divide, and 65 to train on: one has none of the last batch."""
    save_tiny_bert(tmp_path / "bert")
    write_reviews(tmp_path / "reviews.csv", 72)
    words = (
        f"train --model {tmp_path}/bert --data {tmp_path}/reviews.csv --epochs 2 --lr 1e-2 --dropout 0 "
        "--precision fp32 "
        "--max-grad-norm 0 --no-keep-best"
    ).split()
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # no random numbers to differ in
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    assert main([*words, "--batch-size", "8", "--out", str(tmp_path / "one")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29571"]
    done = subprocess.run(
        [*launch, "-m", "qvtune", *words, "--batch-size", "4", "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-4), name
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert results[0]["steps"] == results[1]["steps"] == 18
    assert results[0]["metrics"]["accuracy"] == results[1]["metrics"]["accuracy"]
    # Of seven examples one process has four and the other three; none counts twice.
    assert results[0]["metrics"]["loss"] == pytest.approx(results[1]["metrics"]["loss"], abs=1e-6)
    logged = [read_losses(tmp_path / name) for name in ("one", "two")]
    assert logged[0] == pytest.approx(logged[1], rel=1e-4)
    rates = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert all(r["lr/value"] == 4 * r["lr/query"] for r in rates if "loss" in r)
    assert done.stdout.count("measured on the model") == 1


def read_losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_a_launch_that_shards_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    save_tiny_bert(tmp_path / "bert")
    write_reviews(tmp_path / "reviews.csv", 40)
    words = f"train --model {tmp_path}/bert --data {tmp_path}/reviews.csv --out {tmp_path}/run".split()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert main(words) == 2
    assert "the launch asks for FSDP" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
