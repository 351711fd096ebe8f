"""`Classification`: one of several classes for a text."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvtune.data.columns import is_integer
from qvtune.errors import DataError
from qvtune.tasks import judging, linear
from qvtune.tasks.classes import describe_classes
from qvtune.tasks.named import NamedOutputs
from qvtune.tasks.task import largest_first, logits_of

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from qvtune.data.records import Records

# How many classes a note names.
LISTED = 8
# Classes are unequal if one has this many times as many examples as another.
UNEQUAL = 3.0
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")


@dataclass(frozen=True)
class Classification(NamedOutputs):
    """Classes with ids from 0, a logit for each, and cross entropy in nats."""

    kind: ClassVar[str] = "classification"
    noun: ClassVar[str] = "a classification"
    problem_type: ClassVar[str | None] = "single_label_classification"
    loss_name: ClassVar[str] = "cross entropy"
    mistake_size: ClassVar[str] = "probability"
    has_class_weights: ClassVar[bool] = True

    @classmethod
    def from_records(cls, name: str, records: "Records") -> "Classification":
        """Make the task for a user's own data: its classes and their order come from the training rows.

        Raises:
            DataError: if there is only one class, or there seem to be no classes.
        """
        labels = class_names(records.labels)
        if len(labels) < 2:
            raise DataError(
                f"{records.source}: every row has the label '{labels[0]}'; there is nothing to tell apart. "
                "Give data with at least two classes."
            )
        _check_classes(records, labels)
        return cls(name, labels, "classes", "accuracy", records.text_columns, records.label_column)

    def label_of(self, value: Any, place: str) -> int:
        """Return the id of a class.

        Raises:
            DataError: if the training rows lack the class; `place` says where it was found.
        """
        name = class_name(value)
        if name not in self.labels:
            raise DataError(
                f"{place}: label '{name}' does not occur in the training data, which has {', '.join(self.labels)}. "
                "Correct the label, or train on data that has it."
            )
        return self.labels.index(name)

    def describe_examples(self, labels: Sequence[int]) -> str:
        """Say how many training examples each class has, and which classes cannot be learned."""
        counts = Counter(labels)
        classes = [f"{name} ({counts[i]:,})" for i, name in enumerate(self.labels)]
        more = f", and {len(classes) - LISTED} more" if len(classes) > LISTED else ""
        absent = [name for i, name in enumerate(self.labels) if not counts[i]]
        if absent:
            more += f"; it cannot learn {', '.join(absent[:LISTED])}, of which none is left for training"
        return f"Classification, {len(classes)} classes with training examples: {', '.join(classes[:LISTED])}{more}."

    def balanced_weights(self, labels: Sequence[int]) -> list[float]:
        """Return n / (k n_c) for a class with n_c of n examples in k classes, and 1 for a class without examples."""
        counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(self.labels))
        present = int((counts > 0).sum())
        return [len(labels) / (present * int(count)) if count else 1.0 for count in counts]

    def strata(self, labels: Sequence[int]) -> Sequence[int]:
        """Return the class ids."""
        return labels

    def loss(self, outputs: Any, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return Σ w_i l_i of the cross entropies; divided by `count`, it is torch's `cross_entropy` with `weight`."""
        import torch

        logits, labels = logits_of(outputs), batch["labels"]
        weights = None if class_weights is None else torch.tensor(class_weights, device=logits.device)
        return torch.nn.functional.cross_entropy(logits, labels, weight=weights, reduction="sum")

    def count(self, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return Σ w_i, the sum of the weights of the batch's examples."""
        import torch

        labels = batch["labels"]
        if class_weights is None:
            return super().count(batch)
        return torch.tensor(class_weights, device=labels.device)[labels].sum()

    def losses(self, scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Return the cross entropy of every example in nats, (n,), from (n, classes) logits."""
        from scipy.special import log_softmax

        return -log_softmax(np.asarray(scores, dtype=np.float64), axis=1)[np.arange(len(labels)), labels]

    def predicted(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        """Return the class with the largest logit, (n,)."""
        return scores.argmax(axis=-1)

    def predictions(self, scores: NDArray[Any], examples: "Dataset") -> list[dict[str, Any]]:
        """Return the `label` of every example, and the `probabilities` of all."""
        return [
            {"label": self.shown(row.argmax()), "probabilities": dict(zip(self.labels, map(float, row), strict=True))}
            for row in probabilities(scores)
        ]

    def mistakes(self, scores: NDArray[Any], labels: NDArray[Any], most: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the examples where the model is most certain of a wrong class.

        Each has the model's `probability` of that class, by which they are sorted, and its `label_probability`.
        """
        chances, predicted = probabilities(scores), self.predicted(scores)
        sureness = chances[np.arange(len(labels)), predicted]
        return [
            (
                i,
                {
                    "label": self.shown(labels[i]),
                    "prediction": self.shown(predicted[i]),
                    "probability": float(sureness[i]),
                    "label_probability": float(chances[i, labels[i]]),
                },
            )
            for i in largest_first(sureness, np.flatnonzero(predicted != labels), most)
        ]

    def class_table(self, scores: NDArray[Any], labels: NDArray[Any]) -> dict[str, Any]:
        """Return precision, recall, F1 and support of every class, and the confusion matrix."""
        return describe_classes(self.labels, self.predicted(scores), labels)

    def judge(self, predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
        """Warn of predictions that do not distinguish classes, or in which a class never occurs."""
        return judging.judge_classes(self.labels, predicted, labels, where)

    def is_unequal(self, labels: NDArray[Any]) -> bool:
        """Return whether one class has several times the examples of another."""
        counts = np.bincount(labels, minlength=len(self.labels))
        return bool(counts.max() >= UNEQUAL * max(1, counts.min()))

    def probe_problem(self, labels: ArrayLike) -> str | None:
        """Say so if there is only one class."""
        return "the training examples are of one class" if len(np.unique(labels)) < 2 else None

    def example_weights(self, labels: NDArray[Any], class_weights: NDArray[Any]) -> NDArray[Any]:
        """Return the weight of the class of every example."""
        return class_weights[labels]

    def fit_linear(
        self,
        features: NDArray[Any],
        labels: NDArray[Any],
        strengths: Sequence[float],
        class_weights: NDArray[Any] | None,
        has_bias: bool,
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Fit multinomial logistic regressions; a class that does not occur is never predicted."""
        return linear.fit_logistic(features, labels, strengths, class_weights, has_bias, self.num_outputs)

    def fitted_losses(self, scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
        """Return the cross entropy of a logistic regression on the outputs."""
        return linear.logistic_losses(linear.standardised(scores), np.asarray(labels))


def class_name(value: Any) -> str:
    """Return the name of a class as it is printed and saved: the text itself, "3" for 3, "true" for True."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def class_names(values: Sequence[Any]) -> tuple[str, ...]:
    """Return every class once, in numeric order if all are integers, or else alphabetically.

    The order is total: "01" comes before "1", although they are equal.
    """
    names = {class_name(value) for value in values}
    if all(is_integer(name) for name in names):
        return tuple(sorted(names, key=lambda name: (Decimal(name), name)))  # int() refuses more than 4,300 digits
    return tuple(sorted(names))


def probabilities(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return the softmax of logits, (examples, classes), in float64."""
    exponentials = np.exp((scores - scores.max(axis=-1, keepdims=True)).astype(np.float64))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _check_classes(records: "Records", labels: Sequence[str]) -> None:
    name = records.label_column
    if all(DECIMAL_COMMA.fullmatch(label) for label in labels):
        raise DataError(
            f"{records.source}: labels such as '{labels[0]}' in column '{name}' have a decimal comma. Write a point."
        )
    if len(labels) == len(records.labels) > 2:
        raise DataError(
            f"{records.source}: each of the {len(labels)} rows has a label of its own in column '{name}', so there are "
            "no classes to learn. Name another --label-column, or give --task-type regression for numbers."
        )
