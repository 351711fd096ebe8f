"""Classes one by one, mistakes and class weights, against scikit-learn and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.utils.class_weight import compute_class_weight

from qvtune.data.records import text_dataset
from qvtune.errors import ConfigError
from qvtune.tasks.classes import frequent_confusions
from qvtune.tasks.classification import Classification, probabilities
from qvtune.tasks.mistakes import LONGEST_TEXT, cut_text, sort_mistakes, worst_mistakes
from qvtune.tasks.regression import Regression
from qvtune.tasks.task import Task
from qvtune.tasks.weights import class_weights, describe_weights

NUMBERS = Regression("n", (), "numbers", "pearson", ("text",), "label")


def task(*labels: str) -> Task:
    return Classification("t", labels, "classes", "accuracy", ("text",), "label")


@pytest.mark.parametrize("classes", [2, 7, 43])
def test_numbers_are_those_of_scikit_learn(classes: int) -> None:
    generator = np.random.default_rng(classes)
    scores = generator.normal(size=(200, classes))
    labels = generator.integers(classes - 1, size=200)  # the last class has no example
    scores[:, 1] -= 10  # and the second is never predicted
    found = task(*map(str, range(classes))).class_table(scores, labels)
    predicted, ids = scores.argmax(axis=1), range(classes)
    assert found["confusion"] == confusion_matrix(labels, predicted, labels=ids).tolist()
    expected = precision_recall_fscore_support(labels, predicted, labels=ids, zero_division=0.0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [entry[name] for entry in found["classes"]] == values.tolist()
    assert [entry["predicted"] for entry in found["classes"]] == np.bincount(predicted, minlength=classes).tolist()
    assert [entry["label"] for entry in found["classes"]] == list(map(str, ids))
    assert json.loads(json.dumps(found)) == found
    assert sum(map(sum, found["confusion"])) == 200


def test_numbers_by_hand() -> None:
    found = task("no", "yes").class_table(np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]]), np.array([0, 1, 1, 1, 0]))
    assert found["confusion"] == [[1, 1], [1, 2]]
    yes = {"label": "yes", "precision": 2 / 3, "recall": 2 / 3, "support": 3, "predicted": 3}
    assert yes.items() <= found["classes"][1].items()
    assert NUMBERS.class_table(np.ones((2, 1)), np.ones(2)) == {}


def test_most_frequent_confusions_come_first() -> None:
    assert frequent_confusions([[9, 1, 0], [4, 9, 2], [0, 0, 9]], 2) == [(1, 0, 4), (1, 2, 2)]


def test_surest_mistakes_come_first() -> None:
    chances = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.55, 0.45]])
    assert probabilities(np.log(chances)) == pytest.approx(chances)
    examples = text_dataset([["a", "b", "c", "d" * 2000]], [1, 1, 1, 1])
    first, second, third = worst_mistakes(task("no", "yes"), np.log(chances), examples)
    assert first == {
        "text": "b",
        "label": "yes",
        "prediction": "no",
        "probability": pytest.approx(0.9),
        "label_probability": pytest.approx(0.1),
    }
    assert (second["text"], len(third["text"]), third["text"][-1]) == ("a", LONGEST_TEXT, "…")
    assert len(worst_mistakes(task("no", "yes"), np.log(chances), examples, 1)) == 1


def test_the_largest_errors_come_first() -> None:
    examples = text_dataset([["a", "b", "c"], ["x", "y", "z"]], [1.0, 2.0, 3.0])
    found = worst_mistakes(NUMBERS, np.array([[1.5], [2.0], [0.0]]), examples)
    assert found == [
        {"text": "c", "text_pair": "z", "label": 3.0, "prediction": 0.0, "error": 3.0},
        {"text": "a", "text_pair": "x", "label": 1.0, "prediction": 1.5, "error": 0.5},
    ]
    assert [mistake["error"] for mistake in sort_mistakes(NUMBERS, [*found[::-1], {"error": 1.0}], 2)] == [3.0, 1.0]


def test_cut_text() -> None:
    assert (cut_text("abcd", 4), cut_text("ab de", 4)) == ("abcd", "ab…")


LABELS = [0] * 6 + [1] * 3 + [2]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert class_weights("balanced", task("a", "b", "c"), LABELS) == pytest.approx(expected.tolist())
    # A class that training has not: of the others, weights as if it were not there.
    expected = compute_class_weight("balanced", classes=np.array([0, 2]), y=[0, 0, 2])
    assert class_weights("balanced", task("a", "b", "c"), [0, 0, 2]) == pytest.approx([expected[0], 1, expected[1]])
    assert class_weights(None, task("a", "b"), LABELS) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [("w.yaml", "no: 0.5\n'02': 3\nc d: 1e1\n"), ("w.json", '{"02": 3, "no": 0.5, "c d": 10}')],
)
def test_weights_of_a_file(name: str, text: str, tmp_path: Path) -> None:
    """Names are text, also those that YAML would take for a boolean or a number."""
    (tmp_path / name).write_text(text)
    assert class_weights(str(tmp_path / name), task("no", "02", "c d"), LABELS) == [0.5, 3.0, 10.0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("w.yaml", "a: 1\nb: 2\n", r"w\.yaml: has no weight for the label 'bill'"),
        ("w.yaml", "a: 1\nb: 2\nbil: 1\n", r"w\.yaml: label 'bil' does not occur .*a, b, bill\. Did you mean 'bill'\?"),
        ("w.yaml", "a: 1\nb: 0\nbill: 1\n", r"w\.yaml: the weight of label 'b' is '0'; it must be a number above 0"),
        ("w.yaml", "a: 1\nb: .inf\nbill: 1\n", "weight of label 'b' is '.inf'"),
        ("w.yaml", "a: 1\nb: [1]\nbill: 1\n", "weight of label 'b' is"),
        ("w.json", '{"a": true, "b": 1, "bill": 1}', r"w\.json: the weight of label 'a' is True"),
        ("w.json", '{"a": 1, "a": 2, "b": 1, "bill": 1}', r"w\.json: label 'a' occurs twice"),
        ("w.yaml", "a: 1\na: 2\nb: 1\nbill: 1\n", r"w\.yaml: label 'a' occurs twice"),
        ("w.yaml", "- 1\n", r"w\.yaml: must hold a weight by the name of every class"),
        ("w.yaml", "a: 1\nb: 1_0\nbill: 1\n", "weight of label 'b' is '1_0'"),
        ("w.json", "[1, 2]", r"w\.json: must hold a weight by the name of every class"),
        ("w.json", "{", r"w\.json: not JSON"),
        ("w.yaml", "a: [1\n", r"w\.yaml: not YAML"),
        ("w.yaml", "", r"w\.yaml: must hold a weight"),
    ],
)
def test_a_file_that_makes_no_sense(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        class_weights(str(tmp_path / name), task("a", "b", "bill"), LABELS)


def test_weights_in_words() -> None:
    assert describe_weights(task("a", "b"), [0.5, 12.3456]) == "The training loss weighs the classes: a 0.5, b 12.3."
    many = describe_weights(task(*map(str, range(40))), [1.0] * 39 + [3.0])
    assert many.endswith("6 1, 7 1, and 32 more from 1 to 3.")


def test_weights_need_a_file_and_classes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--class-weights .*nowhere\.yaml: cannot be read: No such file"):
        class_weights(str(tmp_path / "nowhere.yaml"), task("a", "b"), LABELS)
    with pytest.raises(ConfigError, match="--class-weights is balanced, and n is a regression"):
        class_weights("balanced", NUMBERS, [1.0, 2.0])
