"""`qvtune suggest`, and rates that are auto in `qvtune train`."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from tiny import save_tiny_bert, write_reviews

from qvtune.cli.main import main

SHARED = ["--model", "bert", "--data", "reviews.csv", "--batch-size", "8", "--epochs", "4", "--precision", "fp32"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny_bert(tmp_path / "bert")
    write_reviews(tmp_path / "reviews.csv", 400)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_json_and_the_page(place: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["suggest", *SHARED, "--lr", "auto", "--head-lr", "1e-2", "--budget", "450", "--out", "found"]
    assert main([*words, "--json"]) == 0
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert {"lr", "lr_ratio", "head_lr", "cost", "confidence"} <= set(found)
    assert found["head_lr"] == 1e-2
    assert "searching" in output.err or found["cost"]["seconds"] < 10
    page = (place / "found" / "report.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert "query alone" in page
    assert "Confidence" in page
    assert (place / "found" / "search.png").read_bytes().startswith(b"\x89PNG")
    assert main(words) == 0
    again = capsys.readouterr().out
    assert f"λ {found['lr_ratio']:g}" in again
    assert "Confidence" in again


def test_train_with_rates_that_are_auto(place: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["train", *SHARED, "--lr", "auto", "--lr-ratio", "auto", "--budget", "550", "--out", "run"]
    assert main(words) == 0
    config = yaml.safe_load((place / "run" / "config.yaml").read_text())
    found = json.loads((place / "run" / "suggestion" / "suggestion.json").read_text())
    assert (config["lr"], config["lr_ratio"], config["head_lr"]) == (found["lr"], found["lr_ratio"], found["head_lr"])
    assert "η_QK" in capsys.readouterr().out
    first = (place / "run" / "result.json").read_bytes()
    assert main(words) == 0
    assert "finished" in capsys.readouterr().err
    assert (place / "run" / "result.json").read_bytes() == first


def test_what_is_not_auto_keeps_its_default(place: Path) -> None:
    (place / "run.yaml").write_text("lr: auto\nhead_lr: 0.01\n")
    assert main(["train", *SHARED, "--config", "run.yaml", "--max-steps", "4", "--budget", "400", "--out", "run"]) == 0
    config = yaml.safe_load((place / "run" / "config.yaml").read_text())
    default = 1.0
    assert config["head_lr"] == 0.01
    assert config["lr_ratio"] == pytest.approx(default) or config["lr_ratio"] > 0
    found = json.loads((place / "run" / "suggestion" / "suggestion.json").read_text())
    assert config["lr"] == found["lr"]
    assert [test["rate"] for test in found["ranges"]] == ["lr"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["suggest", *SHARED, "--budget", "much"], "the budget is 'much'"),
        (["suggest", *SHARED, "--budget", "-5%"], "the budget is '-5%'"),
        (["suggest", *SHARED, "--lr", "automatic"], "--lr is 'automatic'"),
        (["suggest", *SHARED, "--roles", "z"], "unknown role 'z'"),
        (["suggest", "--model", "bert"], "--data is required"),
        (["train", *SHARED, "--budget", "5%", "--out", "run"], "no rate is to be searched"),
        (["train", *SHARED, "--lr", "auto", "--out", "full"], "is not empty and holds no run"),
        (["train", *SHARED, "--lr", "auto"], "--out is required"),
        (["train", *SHARED, "--lr", "automatic", "--out", "run"], "--lr is 'automatic'"),
    ],
    ids=lambda value: " ".join(value[-4:]) if isinstance(value, list) else "",
)
def test_bad_input(words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture) -> None:
    (place / "full").mkdir()
    (place / "full" / "mine.txt").write_text("mine")
    assert main(words) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert "Traceback" not in output.err
    assert not (place / "run").exists()


def test_auto_is_for_one_process(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", *SHARED, "--lr", "auto", "--out", "run"]) == 2
    assert "for one process" in capsys.readouterr().err
