import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from qvtune.tasks.metrics import METRICS, combine_splits
from qvtune.tasks.table import TASKS


def task(metrics, kind="classification"):
    return TASKS[kind]("mine", ("a", "b", "c"), metrics, "x", ("text",), "label")


def confusion(labels, predictions):
    pairs = list(zip(labels, predictions, strict=True))
    return tuple(pairs.count(cell) for cell in ((1, 1), (0, 1), (1, 0), (0, 0)))  # tp, fp, fn, tn


def accuracy(labels, predictions):
    return sum(a == b for a, b in zip(labels, predictions, strict=True)) / len(labels)


def f1(labels, predictions):
    tp, fp, fn, _ = confusion(labels, predictions)
    return float(Fraction(2 * tp, 2 * tp + fp + fn)) if tp else 0.0


def f1_macro(labels, predictions):
    classes = sorted({*labels, *predictions})
    return sum(f1([int(v == c) for v in labels], [int(v == c) for v in predictions]) for c in classes) / len(classes)


def matthews(labels, predictions):
    tp, fp, fn, tn = confusion(labels, predictions)
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(below) if below else 0.0


def pearson(x, y):
    mx, my = math.fsum(x) / len(x), math.fsum(y) / len(y)
    dx, dy = [v - mx for v in x], [v - my for v in y]
    below = math.sqrt(math.fsum(v * v for v in dx) * math.fsum(v * v for v in dy))
    return math.fsum(a * b for a, b in zip(dx, dy, strict=True)) / below if below else 0.0


def ranks(values):
    # The mean of the places that equal values take.
    return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]


def mean_squared_error(x, y):
    return math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(x)


BINARY = {
    "mixed": ([1, 0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 1, 1, 0, 1, 1]),
    "skewed": ([1] * 9 + [0], [1] * 8 + [0, 0]),
    "perfect": ([1, 0, 1], [1, 0, 1]),
    "opposite": ([1, 0, 1], [0, 1, 0]),
    "always one": ([1, 0, 1, 0], [1, 1, 1, 1]),
    "always zero": ([1, 0, 1, 0], [0, 0, 0, 0]),
    "one class in the labels": ([0, 0, 0], [0, 1, 0]),
    "one example": ([1], [1]),
}


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize(("labels", "predictions"), BINARY.values(), ids=BINARY)
def test_binary_metrics_follow_from_the_confusion_counts(labels, predictions):
    scores = np.eye(2)[predictions] * 4 - 9
    for metrics, expected in {
        "accuracy": {"accuracy": accuracy},
        "accuracy_f1": {"accuracy": accuracy, "f1": f1},
        "matthews": {"matthews_correlation": matthews},
        "classes": {"accuracy": accuracy, "f1_macro": f1_macro},
    }.items():
        found = task(metrics).metrics(scores, np.array(labels))
        assert found == pytest.approx({name: formula(labels, predictions) for name, formula in expected.items()})


def test_binary_metrics_of_a_case_worked_by_hand():
    labels, scores = np.array([1, 1, 1, 0, 0]), np.eye(2)[[1, 1, 0, 1, 0]]
    assert task("accuracy_f1").metrics(scores, labels) == pytest.approx({"accuracy": 3 / 5, "f1": 2 / 3})
    assert task("matthews").metrics(scores, labels) == pytest.approx({"matthews_correlation": 1 / 6})


def test_macro_f1_of_three_classes():
    labels, predictions = [0, 1, 2, 2, 1, 0, 2], [0, 2, 2, 1, 1, 0, 0]
    found = task("classes").metrics(np.eye(3)[predictions], np.array(labels))
    assert found == pytest.approx({"accuracy": 4 / 7, "f1_macro": f1_macro(labels, predictions)})
    assert 0 < found["f1_macro"] < 1


NUMBERS = {
    "noisy": ([0.0, 1.5, 2.0, 5.0, 3.2], [0.3, 1.0, 2.5, 4.0, 3.9]),
    "falling": ([1.0, 2.0, 3.0], [9.0, 4.0, 1.0]),
    "monotone": ([1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 100.0, 1000.0]),
    "ties": ([1.0, 1.0, 2.0, 3.0, 3.0], [0.0, 2.0, 2.0, 2.0, 5.0]),
    "constant predictions": ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]),
    "constant labels": ([2.0, 2.0, 2.0], [1.0, 2.0, 4.0]),
    "one example": ([2.0], [3.0]),
}


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)], ids=["flat", "column"])
@pytest.mark.parametrize(("labels", "predictions"), NUMBERS.values(), ids=NUMBERS)
def test_regression_metrics_follow_from_the_definitions(labels, predictions, shape):
    found = task("numbers", "regression").metrics(np.array(predictions).reshape(shape), np.array(labels))
    expected = {
        "pearson": pearson(labels, predictions),
        "spearman": pearson(ranks(labels), ranks(predictions)),
        "mean_squared_error": mean_squared_error(labels, predictions),
    }
    assert found == pytest.approx(expected, abs=1e-12)
    correlation = task("correlation", "regression").metrics(np.array(predictions), np.array(labels))
    assert correlation == {name: found[name] for name in ("pearson", "spearman")}


def test_correlations_are_computed_in_float64():
    # In float32 these predictions differ by a few units in the last place.
    labels = [1.0, 2.0, 3.0, 4.0]
    predictions = np.array([1000.0, 1000.0001, 1000.0001, 1000.0002], dtype=np.float32)
    found = task("correlation", "regression").metrics(predictions, np.array(labels))
    assert found["pearson"] == pytest.approx(pearson(labels, predictions.astype(np.float64).tolist()), rel=1e-9)


def test_every_metric_is_a_plain_float():
    scores, labels = np.eye(2, dtype=np.float32)[[0, 1, 1]], np.array([0, 1, 0])
    for name in METRICS.keys() - {"entities"}:  # which takes the names of tags
        kind = "regression" if name in ("correlation", "numbers") else "classification"
        found = task(name, kind).metrics(scores[:, 0] if kind == "regression" else scores, labels)
        assert found
        assert {type(value) for value in found.values()} == {float}


def test_one_split_keeps_its_names_and_mnlis_two_get_theirs_and_a_mean():
    one = {"accuracy": 0.8, "f1": 0.7}
    assert combine_splits(task("accuracy_f1"), {"validation": one}) == one
    two = {"validation_matched": {"accuracy": 0.9}, "validation_mismatched": {"accuracy": 0.6}}
    expected = {"accuracy_matched": 0.9, "accuracy_mismatched": 0.6, "accuracy": 0.75}
    assert combine_splits(task("accuracy"), two) == pytest.approx(expected)
    assert two["validation_matched"] == {"accuracy": 0.9}


def test_losses_of_examples_are_torchs():
    scores, labels = np.random.default_rng(0).normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    expected = torch.nn.functional.cross_entropy(torch.tensor(scores), torch.tensor(labels), reduction="none")
    assert task("classes").losses(scores, labels) == pytest.approx(expected.numpy(), rel=1e-12)
    numbers = np.array([0.5, -1.0, 2.0])
    for predictions in (scores[:3, :1], scores[:3, 0]):
        assert task("numbers", "regression").losses(predictions, numbers) == pytest.approx(
            (scores[:3, 0] - numbers) ** 2
        )
