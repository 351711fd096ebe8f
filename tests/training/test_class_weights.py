"""Class weights in the training loss: against torch's own, and a step with accumulation against float64."""

import csv
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny import make_reviews, save_tiny_bert
from torch.nn.functional import cross_entropy

from qvtune.data.records import text_dataset
from qvtune.data.tokens import tokenize
from qvtune.errors import ConfigError, RunError
from qvtune.search.material import make_material
from qvtune.tasks.classification import Classification
from qvtune.training.config import TrainConfig, make_config, read_config
from qvtune.training.inference import evaluate_run, load_run, score_texts
from qvtune.training.prepare import prepare
from qvtune.training.run import run

WEIGHTS = {"negative": 0.3, "positive": 2.0}
TASK = Classification("t", ("a", "b", "c"), "classes", "accuracy", ("text",), "label")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without dropout, whose head starts far from zero, and eleven examples: batches of 4, 4 and 3."""
    place = tmp_path_factory.mktemp("weights")
    save_tiny_bert(place / "bert")
    file = place / "bert" / "config.json"
    other = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 1.0}
    file.write_text(json.dumps(json.loads(file.read_text()) | other))
    for name, rows in (("train", make_reviews(11)), ("more", make_reviews(44)), ("test", make_reviews(8, seed=5))):
        with open(place / f"{name}.csv", "w", newline="") as out:
            csv.writer(out).writerows([("text", "label"), *rows])
    (place / "weights.yaml").write_text("".join(f"{name}: {weight}\n" for name, weight in WEIGHTS.items()))
    return place


def options(place: Path, **others: object) -> dict:
    settings = {"model": str(place / "bert"), "data": str(place / "train.csv"), "validation": str(place / "test.csv")}
    settings |= {"batch_size": 4, "accumulation": 3, "epochs": 1, "logging_steps": 1, "dropout": 0.0}
    settings |= {"precision": "fp32", "max_grad_norm": 1e6, "class_weights": str(place / "weights.yaml")}
    return settings | others


def test_loss_and_gradient_are_those_of_torch() -> None:
    logits = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 0, 0, 1])
    weights = [0.2, 1.5, 4.0]
    expected = cross_entropy(logits, labels, weight=torch.tensor(weights, dtype=torch.float64))
    (wanted,) = torch.autograd.grad(expected, logits)
    batch = {"labels": labels}
    loss = TASK.loss({"logits": logits}, batch, weights) / TASK.count(batch, weights)
    (found,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-8)
    # In parts, with the weight of all to divide by, they add up to the same.
    halves = [({"logits": logits[p]}, {"labels": labels[p]}) for p in (slice(0, 4), slice(4, 9))]
    total = sum(TASK.loss(outputs, part, weights) for outputs, part in halves)
    assert (total / sum(TASK.count(part, weights) for _, part in halves)).item() == pytest.approx(
        expected.item(), rel=1e-6
    )
    plain = TASK.loss({"logits": logits}, batch) / TASK.count(batch)
    assert plain.item() == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-6) != pytest.approx(loss.item())


@pytest.mark.parametrize("fast", [True, False])
def test_an_accumulated_step_is_the_weighted_mean_over_all_its_examples(
    fast: bool, place: Path, tmp_path: Path
) -> None:
    """Loss and norm of the gradient that a run logs, against the formula in float64 on the same model."""
    config = make_config(options(place, fast=fast, out=str(tmp_path / "run")))
    run(config, Console(quiet=True))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in lines if "loss" in line)
    assert logged["step"] == 1  # of eleven examples in three batches
    prepared = prepare(make_config(options(place, fast=False, out=str(tmp_path / "other"))))
    model, tokens = prepared.model.double().eval(), prepared.train
    weights = [WEIGHTS[name] for name in prepared.data.task.labels]
    terms = []
    for row in tokens:
        inputs = {name: torch.tensor([row[name]]) for name in prepared.tokenizer.model_input_names}
        terms.append(-weights[row["labels"]] * model(**inputs).logits.log_softmax(-1)[0, row["labels"]])
    loss = torch.stack(terms).sum() / sum(weights[label] for label in tokens["labels"])
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert logged["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert logged["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    plain = torch.stack([term / weights[label] for term, label in zip(terms, tokens["labels"], strict=True)]).mean()
    assert logged["loss"] != pytest.approx(plain.item(), rel=1e-2)


def test_evaluation_does_not_weigh(place: Path, tmp_path: Path) -> None:
    result = run(make_config(options(place, out=str(tmp_path / "run"))), Console(quiet=True))
    trained = load_run(tmp_path / "run")
    prepared = prepare(make_config(options(place, out=str(tmp_path / "other"))))
    scores = torch.tensor(score_texts(trained, prepared.splits["validation"], 8))
    labels = torch.tensor(prepared.splits["validation"]["labels"])
    weights = torch.tensor([WEIGHTS[name] for name in prepared.data.task.labels])
    assert result["metrics"]["loss"] == pytest.approx(cross_entropy(scores, labels).item(), rel=1e-5)
    assert result["metrics"]["loss"] != pytest.approx(cross_entropy(scores, labels, weight=weights).item(), rel=1e-3)


def test_weights_change_what_is_learned_and_are_told(place: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    rows = [row for i, row in enumerate(make_reviews(80)) if row[1] == "negative" or i % 10 == 1]
    with open(few, "w", newline="") as out:
        csv.writer(out).writerows([("text", "label"), *rows])
    said, margins = [], []
    for name, weights in (("plain", None), ("balanced", "balanced")):
        settings = options(place, data=str(few), class_weights=weights, accumulation=1, lr=1e-3, keep_best=False)
        out = tmp_path / name
        run(
            make_config(settings | {"out": str(out)}), Console(quiet=True), lambda prepared: said.append(prepared.notes)
        )
        trained = load_run(out)
        texts = tokenize(text_dataset([[text for text, _ in make_reviews(20, seed=3)]]), trained.tokenizer, 64)
        negative, positive = score_texts(trained, texts, 8).T
        margins.append((positive - negative).mean())
    assert margins[1] > margins[0] + 0.02  # towards the class that has few examples
    assert not any("weighs" in note for note in said[0])
    assert said[1][-1] == "The training loss weighs the classes: negative 0.6, positive 3."


def test_a_search_weighs_as_the_run(place: Path, tmp_path: Path) -> None:
    settings = options(place, data=str(place / "more.csv"), tune_fraction=0.45, validation=None, batch_size=2)
    settings = {name: value for name, value in settings.items() if value is not None}
    config = make_config(settings | {"data": str(tmp_path / "many.csv"), "out": str(tmp_path / "run")})
    with open(tmp_path / "many.csv", "w", newline="") as out:
        csv.writer(out).writerows([("text", "label"), *make_reviews(120)])
    prepared = prepare(config)
    material = make_material(config, prepared, 40)
    batch = next(material.supply(0))
    model = prepared.model.eval()
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        loss = material.objective.total(model, batch) / material.objective.count(batch)
    weights = torch.tensor([WEIGHTS[name] for name in prepared.data.task.labels])
    assert loss.item() == pytest.approx(cross_entropy(logits, batch["labels"], weight=weights).item(), rel=1e-6)


def test_file_belongs_to_the_run(place: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.yaml"
    weights.write_text((place / "weights.yaml").read_text())
    config = make_config(options(place, class_weights=str(weights), out=str(tmp_path / "run")))
    run(config, Console(quiet=True))
    assert read_config(tmp_path / "run" / "config.yaml")["class_weights"] == str(weights)
    weights.write_text("negative: 1\npositive: 9\n")
    with pytest.raises(RunError, match=r"other data: --class-weights: weights\.yaml has changed since"):
        run(config, Console(quiet=True))
    assert evaluate_run(load_run(tmp_path / "run"))["examples"] == {"validation": 8}  # which needs no weights
    with pytest.raises(RunError, match=r"other class_weights \(.*weights\.yaml there, balanced here\)"):
        run(make_config(options(place, class_weights="balanced", out=str(tmp_path / "run"))), Console(quiet=True))


def test_balanced_is_no_file(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "balanced").mkdir()
    monkeypatch.chdir(tmp_path)
    config: TrainConfig = make_config(options(place, class_weights="balanced", out="run"))
    assert "class_weights: balanced\n" in config.to_yaml()
    assert config.fingerprint() != make_config(options(place, out="run")).fingerprint()


def test_nothing_is_written_for_a_label_that_is_unknown(place: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text('{"negative": 1, "positiv": 2}')
    config = make_config(options(place, class_weights=str(tmp_path / "weights.json"), out=str(tmp_path / "run")))
    with pytest.raises(
        ConfigError, match=r"weights\.json: label 'positiv' does not occur .* Did you mean 'positive'\?"
    ):
        run(config, Console(quiet=True))
    assert not (tmp_path / "run").exists()
