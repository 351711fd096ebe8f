"""A kind of task that this file alone knows, at the command line from the first step to the last."""

import csv
import json
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from tiny import BAD, GOOD, OTHER, save_tiny_bert
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from qvtune.cli.main import main
from qvtune.data.records import Records
from qvtune.errors import DataError
from qvtune.tasks.classification import class_names
from qvtune.tasks.table import TASKS, register, task_from_dict
from qvtune.tasks.task import Task, logits_of


@dataclass(frozen=True)
class Ordinal(Task):
    """Ordered classes, learned as one number by its squared distance; the nearest class is predicted."""

    kind: ClassVar[str] = "ordinal"
    noun: ClassVar[str] = "an ordinal task"

    # What a kind has for itself is stored with it: a distance counts so many times.
    stretch: float = 1.0

    @classmethod
    def from_records(cls, name: str, records: Records) -> "Ordinal":
        labels = class_names(records.labels)
        return cls(name, labels, "classes", "accuracy", records.text_columns, records.label_column, stretch=2.0)

    def label_of(self, value: Any, place: str) -> int:
        if str(value) not in self.labels:
            raise DataError(f"{place}: '{value}' is no step of {', '.join(self.labels)}.")
        return self.labels.index(str(value))

    @property
    def num_outputs(self) -> int:
        return 1

    def loss(self, outputs: Any, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> Any:
        apart = self.stretch * (logits_of(outputs).squeeze(-1) - batch["labels"].float())
        return apart.square().sum()

    def losses(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (self.stretch * (scores.reshape(-1).astype(np.float64) - labels)) ** 2

    def predicted(self, scores: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(scores.reshape(-1)), 0, len(self.labels) - 1).astype(np.int64)


@pytest.fixture(autouse=True)
def ordinal() -> Iterator[None]:
    register(Ordinal)
    yield
    del TASKS[Ordinal.kind]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("toy")
    save_tiny_bert(place / "bert")
    write_stars(place / "stars.csv", 120, 0)
    write_stars(place / "other.csv", 30, 1)
    return place


def write_stars(path: Path, count: int, seed: int) -> None:
    """Texts with no, two or four good words among four, which makes their stars."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        stars = index % 3
        words = [*generator.choice(GOOD, 2 * stars), *generator.choice(BAD, 4 - 2 * stars), *generator.choice(OTHER, 2)]
        rows.append((" ".join(generator.permutation(words)), stars))
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "stars"), *rows])


def options(place: Path) -> list[str]:
    words = "--task-type ordinal --batch-size 8 --max-steps 80 --eval-steps 20 --lr 1e-2 --head-lr 5e-2"
    return [*f"--model {place}/bert --data {place}/stars.csv --precision fp32 --no-log-updates".split(), *words.split()]


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    register(Ordinal)
    assert main(["train", *options(place), "--out", str(place / "run")]) == 0
    return place / "run"


def stars_of(file: Path) -> tuple[list[str], list[int]]:
    with open(file, newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    return [row["text"] for row in rows], [int(row["stars"]) for row in rows]


def score_plainly(run: Path, texts: list[str], out: Path) -> np.ndarray:
    """Return the one output of the merged model for every text, by transformers alone."""
    assert main(["merge", "--run", str(run), "--out", str(out)]) == 0
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.config.num_labels == 1
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.squeeze(-1).numpy()


def test_training_learns_it(trained: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    task = json.loads((trained / "plan.json").read_text())["task"]
    assert (task["kind"], task["labels"], task["settings"]) == ("ordinal", ["0", "1", "2"], {"stretch": 2.0})
    assert task_from_dict(task).to_dict() == task | {"labels": tuple("012"), "text_columns": ("text",)}
    assert result["main_metric"] == "accuracy"
    assert result["metrics"]["accuracy"] > 0.6
    losses = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    losses = [record["eval_loss"] for record in losses if "eval_loss" in record]
    assert losses[-1] < 0.5 * losses[0]
    assert "num_labels=1)" in (trained / "adapter" / "README.md").read_text()
    mistakes = [json.loads(line) for line in (trained / "mistakes.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in mistakes] == sorted((row["loss"] for row in mistakes), reverse=True)
    assert {row["label"] for row in mistakes} <= set("012")


def test_evaluate_and_predict_agree_with_plain_transformers(
    trained: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    texts, stars = stars_of(place / "other.csv")
    scores = score_plainly(trained, texts, tmp_path / "merged")
    nearest = scores.round().clip(0, 2).astype(int)
    capsys.readouterr()
    words = ["evaluate", "--run", str(trained), "--data", str(place / "other.csv"), "--mistakes", "3"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = {"accuracy": accuracy_score(stars, nearest), "f1_macro": f1_score(stars, nearest, average="macro")}
    assert found["metrics"] == pytest.approx(expected)
    worst = np.argsort(-((scores - stars) ** 2))[:3]
    assert [row["text"] for row in found["mistakes"]] == [texts[i] for i in worst]
    assert [row["loss"] for row in found["mistakes"]] == pytest.approx(4 * (scores - stars)[worst] ** 2, rel=1e-3)
    assert main(words) == 0
    assert f"{found['mistakes'][0]['loss']:.4f}" in capsys.readouterr().out
    assert main(f"predict --run {trained} --data {place}/other.csv --out {tmp_path}/p.csv".split()) == 0
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        assert [int(row["prediction"]) for row in csv.DictReader(file)] == nearest.tolist()
    capsys.readouterr()
    assert main(["evaluate", "--run", str(trained), "--json"]) == 0  # on its own examples
    metrics = json.loads((trained / "result.json").read_text())["metrics"]
    again = json.loads(capsys.readouterr().out)["metrics"]
    assert again == pytest.approx({name: metrics[name] for name in again})


def test_the_page_shows_it(trained: Path) -> None:
    assert main(["report", str(trained)]) == 0
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "Worst mistakes" in page
    assert "with the largest loss" in page


def test_a_run_that_was_stopped_goes_on_to_the_same_end(
    trained: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    loss, batches = Ordinal.loss, []

    def stop(self: Ordinal, *args: Any) -> Any:
        batches.append(1)
        if len(batches) == 40:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Ordinal, "loss", stop)
        assert main(["train", *options(place), "--out", str(tmp_path / "run")]) != 0
    assert not (tmp_path / "run" / "result.json").exists()
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "Going on from" in capsys.readouterr().err
    straight, resumed = (json.loads((run / "result.json").read_text()) for run in (trained, tmp_path / "run"))
    assert resumed["metrics"] == straight["metrics"]
    weights = [(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in (trained, tmp_path / "run")]
    assert weights[0] == weights[1]


def test_a_sweep(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["sweep", *options(place), "--axis", "lr_ratio=1,4", "--out", str(tmp_path / "sweep")]
    assert main(words) == 0
    assert "accuracy" in capsys.readouterr().out
    results = [json.loads(file.read_text()) for file in (tmp_path / "sweep").rglob("result.json")]
    assert [result["status"] for result in results] == ["finished"] * 2
    assert results[0]["metrics"] != results[1]["metrics"] or results[0]["train_loss"] != results[1]["train_loss"]


def test_rates_are_searched_by_its_losses(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_stars(tmp_path / "more.csv", 400, 2)
    words = f"suggest --task-type ordinal --model {place}/bert --data {tmp_path}/more.csv --batch-size 8 --epochs 4"
    assert main(f"{words} --precision fp32 --lr auto --budget 450 --out {tmp_path}/found --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["lr"] > 0


def test_class_weights_are_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["train", *options(place), "--class-weights", "balanced", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "stars is an ordinal task, which has no classes" in capsys.readouterr().err


def test_what_is_not_registered_is_named(
    trained: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = options(place)
    words[words.index("ordinal")] = "ordnal"
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    *others, last = [repr(kind) for kind in TASKS]
    expected = f"'ordnal'; it should be {', '.join(others)} or {last}. Did you mean 'ordinal'?"
    assert f"--task-type is {expected}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert f"{{{','.join(TASKS)}}}" in capsys.readouterr().out
    monkeypatch.delitem(TASKS, "ordinal")
    for command in (["evaluate", "--run", str(trained)], ["train", "--resume", str(trained)]):
        assert main(command) == 2
        *others, last = [repr(kind) for kind in TASKS]
        expected = f"task_type is 'ordinal'; it should be {', '.join(others)} or {last}"
        error = capsys.readouterr().err
        assert re.search(rf"{re.escape(str(trained))}/config.yaml, line \d+: {re.escape(expected)}", error)
    monkeypatch.setitem(TASKS, "ordinal", Ordinal)


def test_a_name_is_of_one_kind() -> None:
    with pytest.raises(ValueError, match="the kind of task 'ordinal' is Ordinal already"):
        register(type("Other", (Ordinal,), {}))
    assert register(Ordinal) is Ordinal
