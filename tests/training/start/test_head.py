"""A head that is fitted, in every family's own model: what the model then computes is what the probe said."""

import numpy as np
import pytest
import torch
from made_up_tokens import make_tokens
from models import TEXT, Family, build, snapshot
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from torch import nn

import qvtune
from qvtune.tasks.classification import Classification
from qvtune.tasks.regression import Regression
from qvtune.tasks.task import Task
from qvtune.training.start.head import SHRINK, start_head

TASK = Classification("made up", ("a", "b", "c"), "classes", "accuracy", ("text",), "label")
NUMBERS = Regression("made up", (), "numbers", "pearson", ("text",), "label")


def head_parameters(model: nn.Module, family: Family) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(tuple(f"{head}." for head in family.head))}


def logits(model: nn.Module, tokens, padding) -> np.ndarray:
    """Plain forward passes, one text at a time."""
    found = []
    with torch.no_grad():
        for row in tokens.remove_columns("labels").to_list():
            batch = {name: torch.tensor([values]) for name, values in row.items()}
            found.append(model(**batch).logits[0].double().numpy())
    return np.array(found)


def start(model: nn.Module, family: Family, padding, task: Task = TASK, classes: int = 3, **options):
    new = head_parameters(qvtune.roles.unwrap.unwrap(model), family) if "new" not in options else options.pop("new")
    settings = {"kind": "plain", "batch_size": 16, "seed": 0} | options
    train, validation = make_tokens(150, classes), make_tokens(60, classes, seed=1)
    if task is NUMBERS:
        train, validation = (
            tokens.remove_columns("labels").add_column("labels", [100.0 + label for label in tokens["labels"]])
            for tokens in (train, validation)
        )
    return start_head(model, task, train, {"validation": validation}, padding, new=new, **settings), train, validation


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", TEXT, ids=[family.id for family in TEXT])
def test_the_model_computes_what_the_probe_said(family: Family, method: str, padding) -> None:
    plain = build(family)
    new = head_parameters(plain, family)
    model = qvtune.adapt(plain, roles="qv", method=method).eval()
    started, _, validation = start(model, family, padding, new=new)
    assert started.kind == "plain"
    labels = np.array(validation["labels"])
    found = logits(model, validation, padding)
    assert accuracy_score(labels, found.argmax(axis=1)) == pytest.approx(started.metrics["accuracy"], abs=0.02)
    assert started.metrics["accuracy"] > 0.4, "a third is chance"
    assert started.examples == 150


def test_is_logistic_regression_on_the_pooled_output(padding) -> None:
    model = build("bert")
    features = []
    train = make_tokens(150)
    with torch.no_grad():
        for row in train.to_list():
            features.append(model.bert(torch.tensor([row["input_ids"]])).pooler_output[0].double().numpy())
    features, labels = np.array(features), np.array(train["labels"])
    new = {"classifier.weight", "classifier.bias"}
    adapted = qvtune.adapt(model, roles="qv").eval()
    started, _, _ = start(adapted, None, padding, new=new)
    scaled = (features - features.mean(axis=0)) / np.sqrt((features**2).mean(axis=0))
    expected = LogisticRegression(C=started.strength / 150, tol=1e-8, max_iter=5000).fit(scaled, labels)
    ours = torch.softmax(torch.from_numpy(logits(adapted, train, padding)) / SHRINK, dim=1).numpy()
    assert np.abs(ours - expected.predict_proba(scaled)).max() < 0.02


def test_is_logistic_regression_on_the_last_token_of_a_decoder(padding) -> None:
    model = build("llama")
    adapted = qvtune.adapt(model, roles="qv").eval()
    train = make_tokens(150)
    started, _, _ = start(adapted, None, padding, new={"score.weight"})
    with torch.no_grad():
        states = [
            model.model(torch.tensor([row["input_ids"]])).last_hidden_state[0, -1].double().numpy()
            for row in train.to_list()
        ]
    scaled = np.array(states) / np.sqrt((np.array(states) ** 2).mean(axis=0))
    expected = LogisticRegression(C=started.strength / 150, fit_intercept=False, tol=1e-8, max_iter=5000)
    expected.fit(scaled, train["labels"])
    ours = torch.softmax(torch.from_numpy(logits(adapted, train, padding)) / SHRINK, dim=1).numpy()
    assert np.abs(ours - expected.predict_proba(scaled)).max() < 0.02


def test_a_regression_starts_at_its_labels(padding) -> None:
    model = qvtune.adapt(build("roberta", num_labels=1), roles="qv").eval()
    new = {f"classifier.{name}.{kind}" for name in ("dense", "out_proj") for kind in ("weight", "bias")}
    started, _, validation = start(model, None, padding, NUMBERS, new=new)
    found = logits(model, validation, padding)[:, 0]
    assert np.abs(found - 101).mean() < 1
    assert np.corrcoef(found, validation["labels"])[0, 1] == pytest.approx(started.metrics["pearson"], abs=0.02)
    assert started.metrics["pearson"] > 0.5


@pytest.mark.parametrize("kind", ["probe", "plain", "even"])
def test_a_head_that_the_model_brings_is_kept(kind: str, padding) -> None:
    model = qvtune.adapt(build("bert"), roles="qv").eval()
    before = snapshot(model)
    started, _, _ = start(model, None, padding, new=set(), kind=kind)
    assert started.kind == "random"
    assert "came with the model" in started.reason
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_random_changes_nothing(padding) -> None:
    model = qvtune.adapt(build("bert"), roles="qv").eval()
    before = snapshot(model)
    started, _, _ = start(model, None, padding, new={"classifier.weight", "classifier.bias"}, kind="random")
    assert (started.kind, started.metrics) == ("random", None)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("fast", [False, True])
def test_nothing_but_the_head_changes_and_modes_and_gradients_stay(fast: bool, padding) -> None:
    model = qvtune.adapt(build("distilbert"), roles="qv").train()
    if fast:
        model = qvtune.make_fast(model)
    before, trains = snapshot(model), [p.requires_grad for p in model.parameters()]
    new = {f"{name}.{kind}" for name in ("pre_classifier", "classifier") for kind in ("weight", "bias")}
    start(model, None, padding, new=new)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed
    assert all("classifier" in name and "modules_to_save" in name for name in changed)
    assert model.training
    assert trains == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())


def test_the_better_of_the_two_is_taken(padding) -> None:
    losses = {}
    for kind in ("plain", "even", "probe"):
        model = qvtune.adapt(build("bert"), roles="qv").eval()
        started, _, _ = start(model, None, padding, new={"classifier.weight", "classifier.bias"}, kind=kind)
        losses[kind] = started
    tried = losses["probe"].held_out_loss
    assert tried == pytest.approx({kind: losses[kind].held_out_loss[kind] for kind in ("plain", "even")}, rel=1e-3)
    assert losses["probe"].kind == min(tried, key=tried.get)
    assert tried["plain"] != tried["even"]
