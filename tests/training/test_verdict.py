"""Warnings that would have told: on made-up predictions, and in runs that learn nothing and runs that do."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix, f1_score
from sklearn.metrics import precision_recall_fscore_support as by_class
from tiny import BAD, GOOD, OTHER, make_reviews, save_tiny_bert, write_reviews

from qvtune.tasks.classification import Classification
from qvtune.tasks.judging import (
    CHANCE,
    CHANCE_REACHES,
    CONSTANT,
    FEWEST,
    FEWEST_TO_TEST,
    FLAT,
    MAJORITY,
    MEAN,
    NEAR,
    NEVER,
    ONE_CLASS,
    UNCORRELATED,
    agreement,
)
from qvtune.tasks.regression import Regression
from qvtune.tasks.task import Task
from qvtune.training.config import TrainConfig, make_config
from qvtune.training.inference import evaluate_run, load_run, score_texts
from qvtune.training.prepare import prepare
from qvtune.training.run import run
from qvtune.training.verdict import BEHIND, EVALUATIONS, STILL, STILL_LOSS, Predictions, judge_predictions, judge_run

NUMBERS = Regression("n", (), "numbers", "pearson", ("text",), "label")


def config(**options: object) -> TrainConfig:
    return make_config({"model": "m", "data": "d", "out": "o", "epochs": 3} | options)


def task(classes: int) -> Task:
    return Classification("t", tuple("abcdefghij"[:classes]), "classes", "accuracy", ("text",), "label")


def classified(labels: list[int] | np.ndarray, called: list[int] | np.ndarray, classes: int = 3) -> Predictions:
    return Predictions(task(classes), np.eye(classes)[np.asarray(called)], np.asarray(labels), "the validation set")


def numbers(labels: np.ndarray, predicted: np.ndarray) -> Predictions:
    return Predictions(NUMBERS, predicted.reshape(-1, 1), labels, "the validation set")


def judged(found: Predictions, **options: object) -> dict[str, str]:
    return judge_predictions(found, config(**options))


LABELS = np.repeat([0, 1, 2], (60, 30, 10))
RANDOM = np.random.default_rng(0)


def test_all_in_one_class() -> None:
    found = judged(classified(LABELS, [0] * 100), lr=1e-4)
    assert found == {
        ONE_CLASS: "Warning: all 100 predictions on the validation set are 'a', and 60% of the labels are: the model "
        "does not tell the classes apart. Raise --head-lr (now 0.0001) or --epochs (now 3), or give --class-weights "
        "balanced, for the classes are unequal."
    }
    text = judged(classified([0, 1] * 50, [1] * 100, 2), head_lr=0.01, max_steps=20)[ONE_CLASS]
    assert text.endswith("Raise --head-lr (now 0.01) or --max-steps (now 20).")
    assert "unequal" not in judged(classified(LABELS, [0] * 100), class_weights="balanced")[ONE_CLASS]


def test_no_warning_where_there_is_nothing_to_tell_apart() -> None:
    assert judged(classified([1] * 40, [1] * 40)) == {}
    assert judged(classified([0, 1, 0], [1, 1, 1])) == {}


def test_macro_f1_near_the_majoritys() -> None:
    called = np.where(np.arange(100) == 95, 2, 0)  # one of the rare class found, everything else the majority
    ours, theirs = (f1_score(LABELS, c, average="macro", zero_division=0) for c in (called, np.zeros_like(called)))
    assert "macro F1" not in str(judged(classified(LABELS, called)))  # it has come a part of the way
    called = np.where(np.arange(100) < 2, 1, 0)  # wrongly
    found = judged(classified(LABELS, called))
    ours = f1_score(LABELS, called, average="macro", zero_division=0), accuracy_score(LABELS, called)
    assert found.keys() == {MAJORITY}
    assert (
        f"macro F1 is {ours[0]:.3f} and accuracy {ours[1]:.3f} on the validation set (100 examples)" in found[MAJORITY]
    )
    assert f"calling every one 'a' has {theirs:.3f} and 0.600" in found[MAJORITY]


def test_agreement_by_chance() -> None:
    """Of balanced classes, guessing has a macro F1 far above the majority's."""
    labels, called = np.arange(200) % 2, np.arange(200) // 2 % 2
    assert judged(classified(labels, called, 2)).keys() == {CHANCE}
    assert judged(classified(labels, np.where(np.arange(200) < 60, labels, called), 2)) == {}
    assert judged(classified(labels[:28], called[:28], 2)) == {}  # too few to say


def test_agreement_is_scikit_learns_and_its_spread_that_of_shuffled_predictions() -> None:
    labels, called = RANDOM.choice(4, 300, p=[0.5, 0.3, 0.15, 0.05]), RANDOM.choice(4, 300, p=[0.2, 0.2, 0.3, 0.3])
    kappa, deviation = agreement(labels, called, 4)
    assert kappa == pytest.approx(cohen_kappa_score(labels, called))
    shuffled = [cohen_kappa_score(labels, RANDOM.permutation(called)) for _ in range(2000)]
    assert deviation == pytest.approx(np.std(shuffled), rel=0.06)


def test_classes_that_are_never_predicted() -> None:
    found = judged(classified(LABELS, np.where(LABELS == 2, 1, LABELS)))
    assert found.keys() == {NEVER}
    assert "of the labels on the validation set 10 are 'c', and no prediction is:" in found[NEVER]
    assert judged(classified(LABELS, LABELS)) == {}
    few = np.repeat([0, 1, 2], (60, 30, 4))
    assert judged(classified(few, np.where(few == 2, 1, few))) == {}


def test_rates_are_to_be_lowered_where_the_loss_has_risen() -> None:
    losses = [{"step": 10, "loss": 0.7}, {"step": 20, "loss": 1.4}]
    text = judge_predictions(classified(LABELS, [0] * 100), config(lr=0.05, head_lr=0.2), losses)[ONE_CLASS]
    assert text.endswith("The training loss has risen from 0.7 to 1.4: lower --lr (now 0.05) and --head-lr (now 0.2).")


def evaluations(*values: tuple[float, float]) -> list[dict]:
    return [{"step": i, "eval_accuracy": metric, "eval_loss": loss} for i, (metric, loss) in enumerate(values)]


def still(found: Predictions, *values: tuple[float, float]) -> bool:
    return STILL in judge_run(found, config(), evaluations(*values), {"accuracy": values[-1][0]})


def test_a_metric_that_has_not_moved() -> None:
    one = classified(LABELS, [0] * 100)
    assert still(one, (0.6, 1.1), (0.6, 1.0), (0.6, 0.95))
    assert not still(one, (0.6, 1.1), (0.6, 1.0))  # too few evaluations to say
    assert not still(one, (0.3, 1.1), (0.6, 1.0), (0.6, 0.95))
    text = judge_run(one, config(), evaluations((0.58, 1), (0.6, 1), (0.59, 1)), {"accuracy": 0.59})[STILL]
    assert "over 3 evaluations it stayed between 0.5800 and 0.6000, less than the 0.0494 that is one standard" in text
    # One that has learned is at its end early on, which its loss shows.
    good = classified(LABELS, LABELS)
    assert not still(good, (0.93, 0.30), (0.94, 0.25), (0.94, 0.27))
    assert still(good, (0.93, 0.300), (0.94, 0.299), (0.94, 0.2985))


def test_behind_the_probe() -> None:
    good, start = classified(LABELS, LABELS), {"kind": "probe", "metrics": {"accuracy": 0.9, "loss": 0.3}}
    found = judge_run(good, config(lr=1e-3), [], {"accuracy": 0.87}, start)
    assert found == {
        BEHIND: "Warning: accuracy is 0.8700, behind the 0.9000 of the probe that the head started from (one standard "
        "error on 100 examples is 0.0300): fine-tuning has brought nothing. Lower --lr (now 0.001) and --head-lr (now "
        "0.001), or change --epochs (now 3)."
    }
    assert judge_run(good, config(), [], {"accuracy": 0.9}, start) == {}
    assert judge_run(good, config(), [], {"accuracy": 0.5}, None) == {}
    assert judge_run(good, config(), [], {"accuracy": 0.5}, {"kind": "random"}) == {}


def test_numbers() -> None:
    labels, noise = RANDOM.normal(size=100), RANDOM.normal(size=100)
    assert judged(numbers(labels, labels + 0.5 * noise)) == {}
    assert judged(numbers(labels, np.full(100, 0.1))).keys() == {CONSTANT}
    assert judged(numbers(labels, 0.1 + 1e-4 * labels)).keys() == {CONSTANT}
    assert judged(numbers(labels, 0.3 * (noise - labels * (labels @ noise) / (labels @ labels)))).keys() >= {
        UNCORRELATED
    }
    assert judged(numbers(labels, labels + 5)).keys() == {MEAN}
    error = judged(numbers(labels, labels + 5))[MEAN]
    assert f"is 25, where the mean of the labels for every text has {labels.var():.4g}" in error


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("verdict")
    save_tiny_bert(place / "bert")
    write_reviews(place / "reviews.csv", 120)
    return place


def train(place: Path, out: Path, console: Console | None = None, **options: object) -> dict:
    settings = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "batch_size": 8, "out": str(out)}
    # Of what single steps do other warnings speak, of rates as high as these.
    settings |= {"precision": "fp32", "validation_fraction": 0.25, "log_updates": False, "keep_best": True}
    settings |= {"head_start": "random"}  # a probe has learned these reviews before the first step
    return run(make_config(settings | options), console or Console(quiet=True))


def printed_by(path: Path) -> Console:
    return Console(record=True, width=2000, quiet=False, file=open(path, "w"))


def test_a_run_that_learns_nothing_says_so_everywhere(place: Path, tmp_path: Path) -> None:
    console = printed_by(tmp_path / "console")
    result = train(place, tmp_path / "run", console, max_steps=1, lr=1e-6)
    (one_class,) = result["warnings"]
    assert one_class.startswith("Warning: all 30 predictions on the validation set are '")
    assert "--max-steps (now 1)" in one_class
    assert result["learned"] is False
    assert console.export_text().count(one_class) == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["warnings"] == [one_class]
    (again,) = evaluate_run(load_run(tmp_path / "run"))["warnings"]
    assert again == one_class.replace("the validation set", "these examples")
    console = printed_by(tmp_path / "again")
    assert train(place, tmp_path / "run", console, max_steps=1, lr=1e-6) == result
    assert one_class in console.export_text()


def test_a_run_that_learns_is_not_warned_of(place: Path, tmp_path: Path) -> None:
    console = printed_by(tmp_path / "console")
    result = train(place, tmp_path / "run", console, epochs=10, lr=1e-2, method="full", roles="qkvo")
    assert result["metrics"]["accuracy"] > 0.9
    assert result["warnings"] == []
    assert result["learned"] is True
    assert "Warning" not in console.export_text()
    assert evaluate_run(load_run(tmp_path / "run"))["warnings"] == []


def test_one_class_is_told_once_while_the_run_is_on(place: Path, tmp_path: Path) -> None:
    console = printed_by(tmp_path / "console")
    result = train(place, tmp_path / "run", console, max_steps=8, eval_steps=2, lr=1e-7)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [(line["step"], line["warnings"][ONE_CLASS]) for line in lines if ONE_CLASS in line.get("warnings", {})]
    assert [step for step, _ in told] == [2]
    assert "on the validation set at step 2 are" in told[0][1]
    assert console.export_text().count(told[0][1]) == 1
    # At the end it is judged again, with all that the log shows.
    assert told[0][1] not in result["warnings"]
    assert any("accuracy has not moved: over 4 evaluations" in text for text in result["warnings"])


def test_final_predictions_class_by_class(place: Path, tmp_path: Path) -> None:
    """Of the best checkpoint, which is not the last one, and against scikit-learn on scores made anew."""
    options = {"epochs": 4, "lr": 0.05, "warmup": 0.9, "dropout": 0.0, "eval_steps": 3}
    result = train(place, tmp_path / "run", **options)
    assert result["checkpoint"]["step"] < result["steps"]
    loaded = load_run(tmp_path / "run")
    settings = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "validation_fraction": 0.25}
    prepared = prepare(make_config(settings | {"out": str(tmp_path / "other")}))
    held_out = prepared.data.evaluation["validation"]
    scores = score_texts(loaded, prepared.splits["validation"], 64)
    labels, called = np.asarray(held_out["label"]), scores.argmax(axis=1)
    assert result["confusion"] == confusion_matrix(labels, called).tolist()
    expected = by_class(labels, called, zero_division=0.0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [entry[name] for entry in result["classes"]] == pytest.approx(values.tolist())
    mistakes = [json.loads(line) for line in (tmp_path / "run" / "mistakes.jsonl").read_text().splitlines()]
    wrong = [(text, label) for text, label, c in zip(held_out["text"], labels, called, strict=True) if label != c]
    names = prepared.data.task.labels
    assert sorted((m["text"], m["label"]) for m in mistakes) == sorted((text, names[label]) for text, label in wrong)
    assert all(m["prediction"] != m["label"] and 0.5 <= m["probability"] <= 1 for m in mistakes)
    sureness = [mistake["probability"] for mistake in mistakes]
    assert sureness == sorted(sureness, reverse=True)
    evaluated = evaluate_run(loaded, mistakes=3)
    assert (evaluated["confusion"], evaluated["classes"]) == (result["confusion"], result["classes"])
    assert [m["text"] for m in evaluated["mistakes"]] == [m["text"] for m in mistakes[:3]]


def test_nothing_is_scored_twice(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qvtune.training.evaluate import Evaluator

    passes, ask = [], Evaluator.__call__
    monkeypatch.setattr(Evaluator, "__call__", lambda self, model, step: passes.append(step) or ask(self, model, step))
    train(place, tmp_path / "run", epochs=2, eval_steps=6, dropout=0.0)
    assert passes == [6, 12, 18, 24]
    passes.clear()
    train(place, tmp_path / "last", epochs=2, eval_steps=5, keep_best=False)
    assert passes == [5, 10, 15, 20, 24]  # of the last step there is none yet


def test_a_regression(place: Path, tmp_path: Path) -> None:
    rows = [(text, sum(word in GOOD for word in text.split()) - 0.5) for text, _ in make_reviews(120)]
    path = tmp_path / "scores.csv"
    with open(path, "w", newline="") as out:
        csv.writer(out).writerows([("text", "score"), *rows])
    bad = train(place, tmp_path / "bad", data=str(path), max_steps=1, lr=1e-7)
    assert bad["learned"] is False
    assert any("one number for every text" in text or "correlation" in text for text in bad["warnings"])
    good = train(place, tmp_path / "good", data=str(path), epochs=40, lr=1e-2, method="full", roles="qkvo")
    assert (good["warnings"], good["learned"]) == ([], True)
    assert "classes" not in good
    mistakes = [json.loads(line) for line in (tmp_path / "good" / "mistakes.jsonl").read_text().splitlines()]
    errors = [abs(mistake["label"] - mistake["prediction"]) for mistake in mistakes]
    assert [mistake["error"] for mistake in mistakes] == pytest.approx(errors)
    assert errors == sorted(errors, reverse=True)


def test_two_sets_are_taken_together(place: Path, tmp_path: Path) -> None:
    header = "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2\tlabel1\tgold_label"
    (tmp_path / "glue" / "MNLI").mkdir(parents=True)
    names = ["entailment", "neutral", "contradiction"]
    for file, count in (("train", 30), ("dev_matched", 9), ("dev_mismatched", 12)):
        lines = [header]
        for i in range(count):
            text = f"{(GOOD, BAD, OTHER)[i % 3][i % 5]} film {file.replace('_', ' ')}"
            lines.append(
                "\t".join([str(i), "p", "q", "g", "", "", "", "", text, "the film", names[i % 3], names[i % 3]])
            )
        (tmp_path / "glue" / "MNLI" / f"{file}.tsv").write_text("\n".join(lines) + "\n")
    options = {"data": "glue/mnli", "glue_dir": str(tmp_path / "glue"), "epochs": 1, "validation_fraction": 0.1}
    result = train(place, tmp_path / "run", **options)
    assert result["reported_on"] == ["validation_matched", "validation_mismatched"]
    assert [entry["support"] for entry in result["classes"]] == [7, 7, 7]
    right = sum(result["confusion"][i][i] for i in range(3))
    assert right == round(9 * result["metrics"]["accuracy_matched"] + 12 * result["metrics"]["accuracy_mismatched"])
    mistakes = [json.loads(line) for line in (tmp_path / "run" / "mistakes.jsonl").read_text().splitlines()]
    assert len(mistakes) == 21 - right
    assert {mistake["split"] for mistake in mistakes} == set(result["reported_on"])
    assert all(mistake["split"].removeprefix("validation_") in mistake["text"] for mistake in mistakes)
    assert evaluate_run(load_run(tmp_path / "run"))["confusion"] == result["confusion"]


def test_the_page_has_the_limits() -> None:
    text = " ".join((Path(__file__).resolve().parents[2] / "docs" / "train.md").read_text(encoding="utf-8").split())
    assert "all examples, at least five, get the same prediction" in text
    assert f"it has come less than {NEAR:g}" in text
    assert (
        f"below {CHANCE_REACHES:g} of its standard deviations under guessing, with at least {FEWEST_TO_TEST} examples"
        in text
    )
    assert f"spread less than {FLAT:g} of what the labels do" in text
    assert f"at least {FEWEST} examples have the label" in text
    assert f"its validation loss moved by less than {STILL_LOSS:g} too" in text
    assert (FEWEST, EVALUATIONS) == (5, 3)  # which it has in words
