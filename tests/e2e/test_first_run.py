"""The first run of somebody with a file of support tickets: no option that concerns learning."""

import csv
import json
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, f1_score
from tickets import write_tickets

from qvtune.cli.main import main

pytestmark = pytest.mark.slow


def test_unequal_tickets_are_learned_by_default(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train, test = write_tickets(tmp_path)
    run, out = tmp_path / "run", tmp_path / "predictions.jsonl"
    assert main(["train", "--model", "pkg:minilm", "--data", str(train), "--out", str(run)]) == 0
    assert "The head starts as a linear probe" in capsys.readouterr().out
    assert main(["predict", "--run", str(run), "--data", str(test), "--out", str(out)]) == 0
    predicted = [json.loads(line)["label"] for line in out.read_text(encoding="utf-8").split("\n") if line]
    with open(test, newline="", encoding="utf-8") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert accuracy_score(labels, predicted) >= 0.9
    assert f1_score(labels, predicted, average="macro") >= 0.75
    result = json.loads((run / "result.json").read_text())
    assert result["warnings"] == []
    assert result["metrics"]["accuracy"] > result["head_start"]["metrics"]["accuracy"] > 0.5
