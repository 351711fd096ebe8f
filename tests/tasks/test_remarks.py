"""What is said about the examples before training."""

import pytest

from qvtune.data.records import text_dataset
from qvtune.tasks.classification import Classification
from qvtune.tasks.regression import Regression
from qvtune.tasks.remarks import remarks
from qvtune.tasks.task import Task


def task(*labels: str) -> Task:
    kind = Classification if labels else Regression
    return kind("mine", labels, "classes", "accuracy", ("text",), "label")


def examples(texts: list[str], labels: list[float]) -> object:
    return text_dataset([texts], labels)


def test_classes_and_their_counts_are_told() -> None:
    said = remarks(task("bad", "good"), examples(["a", "b", "c"], [0, 1, 1]), {})
    assert said == ["Classification, 2 classes with training examples: bad (1), good (2)."]


def test_range_of_a_regression_is_told() -> None:
    said = remarks(task(), examples(["a", "b"], [0.5, 4.25]), {})
    assert said == ["Regression, 2 training examples with labels from 0.5 to 4.25."]


def test_whole_numbers_may_be_classes() -> None:
    said = remarks(task(), examples(["a", "b"], [0.0, 1.0]), {})
    assert "labels from 0.0 to 1.0. They are whole numbers: if they name classes" in said[0]


def test_what_looks_like_a_mistake_is_told() -> None:
    train = examples(["a", "b", " ", "d"], [0, 1, 2, 3])
    held_out = {"validation": examples(["b"], [1]), "tuning": examples(["c"], [1])}
    said = "\n".join(remarks(task("Good", "good", "NA", "bad", "ugly"), train, held_out))
    assert "it cannot learn ugly, of which none is left for training" in said
    assert "The labels 'Good', 'good' differ in capitals alone" in said
    assert "The label 'NA' is a class of its own" in said
    assert "1 of 1 validation examples have the text of a training example" in said
    assert "The validation set is small (1): its metrics are coarse. Give more by --validation or" in said
    assert "The tuning set is small (1): its metrics are coarse. Give more by --tune-fraction." in said
    assert "1 of 4 training texts are empty" in said


def test_the_same_number_written_twice_is_told() -> None:
    said = remarks(task("01", "1", "+2", "x"), examples(["a"] * 4, [0, 1, 2, 3]), {})
    assert "The labels '01', '1' are the same number and are classes of their own." in said


JOINED = {
    "semicolons": (("db", "infra", "infra;web", "web"), "The label 'infra;web' seems to be several labels in one"),
    "spaces": (
        ("db, web", "web, infra", "infra, db"),
        "The label 'db, web' and 2 more seem to be several labels in one",
    ),
    "never alone": (("a|b", "b|c", "c|a"), "The label 'a|b' and 2 more seem"),
    "of names with a comma": (("Eugene, OR", "Portland, OR", "Washington, DC"), None),
    "a pair in two orders": (("left/right", "up/down"), None),
    "a separator alone": ((";", "a", "b"), None),
}


@pytest.mark.parametrize(("labels", "message"), JOINED.values(), ids=JOINED)
def test_several_labels_in_one_are_told(labels: tuple[str, ...], message: str | None) -> None:
    said = "\n".join(remarks(task(*labels), examples(["a"] * len(labels), list(range(len(labels)))), {}))
    assert message in said if message else "several labels" not in said


def test_second_text_counts_when_texts_are_compared() -> None:
    train = text_dataset([["a", "b"], ["x", "y"]], [0, 1])
    held_out = text_dataset([["a"] * 40, ["y"] * 40], [0] * 40)
    assert len(remarks(task("no", "yes"), train, {"validation": held_out})) == 1
