"""Several labels for a text: how cells are read, the loss, thresholds and metrics, beside scikit-learn and torch."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from tiny import save_tiny_bert
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_outputs import SequenceClassifierOutput

from qvtune.cli.main import main
from qvtune.data.tables import Table
from qvtune.errors import DataError, ModelError
from qvtune.tasks.guess import guess_kind, read_labelled
from qvtune.tasks.label_cells import labels_in, separator_of
from qvtune.tasks.linear import fit_logistics
from qvtune.tasks.multilabel import Multilabel
from qvtune.tasks.table import task_from_dict
from qvtune.tasks.thresholds import FEWEST, fit_thresholds

GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.normal(size=(40, 3)).astype(np.float32)
LABELS = (GENERATOR.random((40, 3)) < [0.5, 0.3, 0.2]).astype(np.int64)
TASK = Multilabel("mine", ("a", "b", "c"), "labels", "f1_micro", ("text",), "label")


def table(*labels: object, columns: tuple[str, ...] = ("label",)) -> Table:
    rows = [(f"text {i}", *(row if len(columns) > 1 else (row,))) for i, row in enumerate(labels)]
    return Table("m.jsonl", ("text", *columns), rows, [f"m.jsonl, line {n}" for n in range(1, len(rows) + 1)])


KINDS = {
    "lists": ([["x"], ["x", "y"], []], "multilabel"),
    "semicolons": (["infra;web", "web", "infra", "web;db", "db"], "multilabel"),
    "commas of numbers": (["4,27", "27", "4", "0,27", "0"], "multilabel"),
    "bars": (["a|b", "b|c", "a", "c", "b"], "multilabel"),
    "a slash may be a name": (["tcp/ip", "tcp", "ip", "web/ip", "web"], "classification"),
    "one such cell may be a name": (["a;b", "a", "b", "c"], "classification"),
    "parts that never come alone": (["Trinidad, Tobago", "Antigua, Barbuda"], "classification"),
}


@pytest.mark.parametrize(("labels", "kind"), KINDS.values(), ids=KINDS)
def test_several_labels_are_recognised(labels: list, kind: str) -> None:
    assert guess_kind(labels) == kind


def test_cells_of_every_form_give_the_same_examples() -> None:
    wanted = [[1, 0], [1, 1], [0, 0], [0, 1]]
    forms = [
        table(["x"], ["x", "y"], [], ["y"]),
        table("x", "x;y", "", "y"),
        table("x", "y | x", None, "y"),
        table('["x"]', '["x", "y"]', "[]", '["y"]'),
        table((1, 0), ("1", "1"), ("false", 0), (False, True), columns=("x", "y")),
    ]
    for form in forms:
        columns = form.columns[1:]
        kind, records, _ = read_labelled(form, label_columns=columns, kind="multilabel")
        task = kind.from_records("mine", records)
        assert task.examples(records)["label"][:] == wanted, form.rows
        assert (task.labels, task.label_columns) == (("x", "y"), columns)
        assert task_from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_the_separator_is_said() -> None:
    read = table("infra;web", "web", "infra; db", "db", "infra")
    kind, records, _ = read_labelled(read)
    task = kind.from_records("mine", records)
    assert (task.kind, task.labels) == ("multilabel", ("db", "infra", "web"))
    note = task.explain_guess(records.labels, records.places)
    assert note.startswith("Guessed from the labels: ';' stands between labels, as in 'infra;web' (m.jsonl, line 1)")
    assert separator_of(["a", "b"]) == ";"
    assert separator_of([["a"], []]) is None


BAD = {
    "an unknown label": (lambda t: t.examples(t.read(table(["x"], ["z"]))[0]), "line 2: label 'z' does not occur"),
    "numbers with a point": (lambda t: labels_in([0.5, 1.5], None, "p"), "p holds the number 0.5"),
    "objects": (lambda t: labels_in([{"a": 1}], None, "p"), 'p holds {"a": 1} as a label'),
    "an object": (lambda t: labels_in({"a": 1}, None, "p"), "p holds an object"),
    "lists in lists": (lambda t: labels_in([["a"]], None, "p"), 'p holds \\["a"\\] as a label'),
    "an empty label": (lambda t: labels_in(["a", ""], None, "p"), "p holds an empty label"),
    "between separators": (lambda t: labels_in("a;;b", ";", "p"), "p holds an empty label"),
    "one label everywhere": (
        lambda t: Multilabel.from_records("m", Multilabel.read(table(["x"], ["x"]))[0]),
        "m.jsonl: every row has the labels x in column 'label'; there is nothing to tell apart",
    ),
    "no label anywhere": (
        lambda t: Multilabel.from_records("m", Multilabel.read(table([], []))[0]),
        "every row has no label in column 'label'",
    ),
    "no flag": (
        lambda t: Multilabel.from_records(
            "m", Multilabel.read(table((1, 0), (2, 0), columns=("a", "b")), None, ["a", "b"])[0]
        ),
        "line 2: column 'a' is '2', and a label column holds 0 or 1",
    ),
}


@pytest.mark.parametrize(("use", "message"), BAD.values(), ids=BAD)
def test_bad_labels_are_refused_with_their_place(use, message: str) -> None:
    task = Multilabel.from_records("m", Multilabel.read(table(["x"], ["x", "y"]))[0])
    with pytest.raises(DataError, match=message):
        use(task)


@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 3.0]], ids=["equal", "weighted"])
def test_the_loss_is_the_binary_cross_entropy(weights: list[float] | None) -> None:
    outputs, batch = SequenceClassifierOutput(logits=torch.from_numpy(SCORES)), {"labels": torch.from_numpy(LABELS)}
    total = TASK.loss(outputs, batch, weights)
    chances = 1 / (1 + np.exp(-SCORES.astype(np.float64)))
    present = np.array(weights or 1.0)
    expected = -(present * LABELS * np.log(chances) + (1 - LABELS) * np.log(1 - chances)).mean(axis=1)
    assert float(total) == pytest.approx(expected.sum(), rel=1e-6)
    assert float(TASK.count(batch, weights)) == 40
    if weights is None:
        assert TASK.losses(SCORES, LABELS) == pytest.approx(expected)
        # transformers' own loss of such a head is the mean over examples and labels.
        own = torch.nn.BCEWithLogitsLoss()(torch.from_numpy(SCORES), torch.from_numpy(LABELS).float())
        assert float(total) / 40 == pytest.approx(float(own), rel=1e-6)


def test_metrics_are_scikit_learns() -> None:
    found = TASK.metrics(SCORES, LABELS)
    called = (SCORES > 0).astype(int)
    assert found == {
        "f1_micro": f1_score(LABELS, called, average="micro"),
        "f1_macro": f1_score(LABELS, called, average="macro"),
        "exact_match": accuracy_score(LABELS, called),
    }
    classes = TASK.class_table(SCORES, LABELS)["classes"]
    assert [entry["f1"] for entry in classes] == pytest.approx(f1_score(LABELS, called, average=None))
    assert [entry["support"] for entry in classes] == LABELS.sum(axis=0).tolist()


def test_thresholds_have_the_best_f1_of_all() -> None:
    found = fit_thresholds(SCORES, LABELS)
    for k in range(3):
        candidates = np.concatenate([SCORES[:, k].astype(np.float64) - 1e-9, [SCORES[:, k].max() + 1]])
        best = max(f1_score(LABELS[:, k], SCORES[:, k] > limit, zero_division=0.0) for limit in candidates)
        assert f1_score(LABELS[:, k], SCORES[:, k] > found[k]) == pytest.approx(best)
    rare = np.zeros((40, 1), int)
    rare[: FEWEST - 1] = 1
    assert fit_thresholds(SCORES[:, :1], rare) == [0.0]
    fitted = TASK.fitted(SCORES, LABELS)
    assert fitted.metrics(SCORES, LABELS)["f1_macro"] > TASK.metrics(SCORES, LABELS)["f1_macro"]
    assert task_from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_probe_is_a_logistic_regression_for_each_label(has_bias: bool) -> None:
    values = GENERATOR.normal(size=(60, 4))
    targets = (values @ GENERATOR.normal(size=(4, 3)) + GENERATOR.normal(size=(60, 3)) > 0.5).astype(int)
    for strength, (weight, bias) in zip(
        (1.0, 100.0), fit_logistics(values, targets, (1.0, 100.0), None, has_bias), strict=True
    ):
        for k in range(3):
            model = LogisticRegression(C=strength / 60, fit_intercept=has_bias, tol=1e-8, max_iter=1000)
            model.fit(values, targets[:, k])
            assert weight[k] == pytest.approx(model.coef_[0], abs=2e-3)
            assert bias[k] == pytest.approx(model.intercept_[0] if has_bias else 0.0, abs=2e-3)


def test_a_head_with_the_labels_in_another_order_is_used() -> None:
    task, _ = TASK.match_head(["C", "a", "b"], "m")
    assert task.labels == ("c", "a", "b")
    assert TASK.renumbered([1, 0, 1], task.labels) == [1, 1, 0]
    with pytest.raises(ModelError, match="its head is for 2 labels"):
        TASK.match_head(["a", "b"], "m")


def test_samples_keep_rare_labels() -> None:
    assert TASK.strata([[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1], [0, 0, 0]]) == [1, 2, 3, 3, 0]
    assert TASK.balanced_weights([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]]) == [1 / 3, 3.0, 1.0]


def test_constant_predictions_are_warned_of() -> None:
    constant = np.tile([1, 0, 0], (40, 1))
    assert "are 'a': the model tells no texts apart" in TASK.judge(constant, LABELS, "the validation set")["one_class"]
    assert TASK.judge(LABELS, LABELS, "here") == {}
    chance = GENERATOR.permutation(LABELS)
    assert "same labels for every text" in TASK.judge(chance, LABELS, "here")["majority"]
    never = LABELS.copy()
    never[:, 2] = 0
    assert "are 'c', and no prediction is" in TASK.judge(never, LABELS, "here")["never"]


WORDS = {"good": "praise", "bad": "blame", "film": "film", "plot": "plot"}


def write_topics(path: Path, count: int, seed: int) -> None:
    """Texts in which each of four words has a label of its own."""
    generator, rows = np.random.default_rng(seed), []
    for _ in range(count):
        chosen = [word for word in WORDS if generator.random() < 0.4]
        words = generator.permutation([*chosen, *generator.choice(["the", "a", "and", "is"], 4)])
        rows.append((" ".join(words), ";".join(WORDS[word] for word in chosen)))
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "topics"), *rows])


def test_a_run_from_training_to_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_bert(tmp_path / "bert")
    write_topics(tmp_path / "train.csv", 240, 0)
    write_topics(tmp_path / "new.csv", 60, 1)
    words = f"train --model {tmp_path}/bert --data {tmp_path}/train.csv --label-column topics --out {tmp_path}/run"
    words += " --lr 1e-2 --head-lr 2e-2 --batch-size 16 --epochs 12 --precision fp32 --no-log-updates"
    assert main(words.split()) == 0
    assert "';' stands between labels" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["f1_micro"] > 0.7
    assert result["head_start"]["kind"] in ("plain", "even")
    assert len(result["task_settings"]["thresholds"]) == 4
    assert main(f"predict --run {tmp_path}/run --data {tmp_path}/new.csv --out {tmp_path}/out.jsonl".split()) == 0
    assert main(f"predict --run {tmp_path}/run --data {tmp_path}/new.csv --out {tmp_path}/out.csv".split()) == 0
    capsys.readouterr()
    assert main(f"evaluate --run {tmp_path}/run --data {tmp_path}/new.csv --json --mistakes 3".split()) == 0
    found = json.loads(capsys.readouterr().out)
    # The same by transformers and scikit-learn alone.
    assert main(f"merge --run {tmp_path}/run --out {tmp_path}/merged".split()) == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert model.config.problem_type == "multi_label_classification"
    names = [model.config.id2label[i] for i in range(4)]
    with open(tmp_path / "new.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        chances = model(**tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")).logits.sigmoid()
    limits = 1 / (1 + np.exp(-np.array(result["task_settings"]["thresholds"])))
    expected = [[name for name, p, t in zip(names, row, limits, strict=True) if p > t] for row in chances.numpy()]
    predicted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["labels"] for row in predicted] == expected
    assert [[row["probabilities"][name] for name in names] for row in predicted] == [
        pytest.approx(row, abs=1e-5) for row in chances.tolist()
    ]
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        assert [row["labels"] for row in csv.DictReader(file)] == [";".join(labels) for labels in expected]
    wanted, called = (
        [[int(name in row) for name in names] for row in part]
        for part in ([row["topics"].split(";") for row in rows], expected)
    )
    assert found["metrics"]["f1_macro"] == pytest.approx(f1_score(wanted, called, average="macro"))
    assert found["metrics"]["exact_match"] == pytest.approx(accuracy_score(wanted, called))
    assert main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "threshold" in page
    assert "Confusion matrix" not in page
