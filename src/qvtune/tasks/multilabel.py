"""`Multilabel`: any number of labels for a text, none included."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvtune.errors import DataError
from qvtune.tasks import judging, linear
from qvtune.tasks.classification import class_names
from qvtune.tasks.label_cells import NEGATIVE, POSITIVE, labels_in, separator_of
from qvtune.tasks.named import NamedOutputs
from qvtune.tasks.task import largest_first, list_names, logits_of
from qvtune.tasks.thresholds import fit_thresholds

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from qvtune.data.records import Records
    from qvtune.data.tables import Table

# How many labels a note names.
LISTED = 8
# A label is rare if it has this many times as few examples as another.
UNEQUAL = 3.0


@dataclass(frozen=True)
class Multilabel(NamedOutputs):
    """A logit for each label, a sigmoid, and the binary cross entropy in nats, averaged over the labels.

    Labels are (n, k) int64 of 0 and 1.

    Attributes:
        separator: what stands between the labels of a cell; None if cells are lists, or there are several columns.
        flags: the label columns that hold 0 and 1, one for each label in the order of `labels`; empty if one column
            names the labels.
        thresholds: for every label, the logit from which it is predicted; all 0, a probability of one half, when empty.
    """

    kind: ClassVar[str] = "multilabel"
    noun: ClassVar[str] = "a task with several labels for a text"
    problem_type: ClassVar[str | None] = "multi_label_classification"
    loss_name: ClassVar[str] = "binary cross entropy"
    has_class_weights: ClassVar[bool] = True
    needs_tuning: ClassVar[bool] = True

    separator: str | None = None
    flags: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()

    @classmethod
    def read(
        cls, table: "Table", text_columns: Sequence[str] | None = None, label_columns: Sequence[str] | None = None
    ) -> tuple["Records", str | None]:
        """Pick the columns; a cell without a label is no mistake."""
        from qvtune.data.records import take_columns

        return take_columns(table, text_columns, label_columns)

    @classmethod
    def from_records(cls, name: str, records: "Records") -> "Multilabel":
        """Make the task for a user's own data: its labels and their order come from the training rows.

        Raises:
            DataError: if a cell holds no labels, or there is nothing to tell apart.
        """
        if len(records.label_columns) > 1:
            flags, separator, labels = records.label_columns, None, records.label_columns
        else:
            flags, separator = (), separator_of(records.labels)
            found = [
                labels_in(cell, separator, f"{place}: column '{records.label_column}'")
                for cell, place in zip(records.labels, records.places, strict=True)
            ]
            labels = class_names([label for names in found for label in names])
        task = cls(
            name, labels, "labels", "f1_micro", records.text_columns, records.label_column, separator, tuple(flags)
        )
        rows = [task.label_of(cell, place) for cell, place in zip(records.labels, records.places, strict=True)]
        if not labels or all(row == rows[0] for row in rows):
            same = ", ".join(task.shown(np.array(rows[0]))) if labels else ""
            raise DataError(
                f"{records.source}: every row has {f'the labels {same}' if same else 'no label'} in column "
                f"'{records.label_column}'; there is nothing to tell apart."
            )
        return task

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that hold 0 and 1, or the one that names labels."""
        return self.flags or (self.label_column,)

    def label_of(self, value: Any, place: str) -> list[int]:
        """Return 0 or 1 for every label.

        Raises:
            DataError: if the cell has a label that the training rows lack, or holds no labels.
        """
        if self.flags:
            held = {column: _flag(cell, column, place) for cell, column in zip(value, self.flags, strict=True)}
            return [held[name] for name in self.labels]
        found = labels_in(value, self.separator, f"{place}: column '{self.label_column}'")
        for name in found:
            if name not in self.labels:
                raise DataError(
                    f"{place}: label '{name}' does not occur in the training data, which has {list_names(self.labels)}."
                    " Correct the label, or train on data that has it."
                )
        return [int(name in found) for name in self.labels]

    def explain_guess(self, values: Sequence[Any], places: Sequence[str]) -> str | None:
        """Say why a text can have several labels, and how the labels of a cell were told apart."""
        if self.flags:
            return f"The columns {', '.join(self.flags)} hold 0 and 1, so a text can have several labels."
        if self.separator is None:
            return "Guessed from the labels: they are lists, so a text can have several labels."
        cell, place = next((v, p) for v, p in zip(values, places, strict=True) if v and self.separator in v)
        return (
            f"Guessed from the labels: '{self.separator}' stands between labels, as in '{cell.strip()}' ({place}), so "
            "a text can have several. If each cell is one label, give --task-type classification."
        )

    def describe_examples(self, labels: Sequence[Sequence[int]]) -> str:
        """Say how many training examples each label has, and how many labels a text has."""
        counts = np.asarray(labels).sum(axis=0)
        words = [f"{name} ({n:,})" for name, n in zip(self.labels, counts, strict=True)]
        more = f", and {len(words) - LISTED} more" if len(words) > LISTED else ""
        absent = [name for name, n in zip(self.labels, counts, strict=True) if not n]
        if absent:
            more += f"; it cannot learn {', '.join(absent[:LISTED])}, of which no example is left for training"
        each = counts.sum() / len(labels)
        return (
            f"Several labels for a text ({each:.2f} on average): {len(words)} labels with training examples: "
            f"{', '.join(words[:LISTED])}{more}."
        )

    def renumbered(self, label: Sequence[int], labels: Sequence[str]) -> list[int]:
        """Return a row of 0 and 1 in the order of `labels`."""
        return [label[self.labels.index(name)] for name in labels]

    def balanced_weights(self, labels: Sequence[Sequence[int]]) -> list[float]:
        """Return (n - n_k) / n_k for a label that n_k of n examples have, and 1 for a label without examples."""
        counts = np.asarray(labels).sum(axis=0)
        return [(len(labels) - int(count)) / int(count) if count else 1.0 for count in counts]

    def strata(self, labels: Sequence[Sequence[int]]) -> Sequence[int]:
        """Return, for every example, the rarest of its labels: 0 for none, or its number and 1."""
        table = np.asarray(labels)
        rarity = np.where(table > 0, table.sum(axis=0), np.iinfo(np.int64).max)
        return np.where(table.any(axis=1), rarity.argmin(axis=1) + 1, 0).tolist()

    def loss(self, outputs: Any, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return Σ_i mean_k w_k l_ik of the binary cross entropies; w_k weighs where the label is present."""
        import torch

        logits, labels = logits_of(outputs), batch["labels"].float()
        weights = None if class_weights is None else torch.tensor(class_weights, device=logits.device)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=weights, reduction="none"
        )
        return losses.mean(dim=-1).sum()

    def losses(self, scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Return the binary cross entropy of every example in nats, averaged over the labels: (n,)."""
        return binary_cross_entropies(scores, labels).mean(axis=1)

    def predicted(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        """Return (n, k) of 0 and 1: whether the logit of a label is above its threshold."""
        return (np.asarray(scores) > np.array(self.thresholds or 0.0)).astype(np.int64)

    def fitted(self, scores: NDArray[Any], labels: NDArray[Any]) -> "Multilabel":
        """Return the task with the thresholds at which every label has its best F1 on these examples."""
        return replace(self, thresholds=tuple(fit_thresholds(scores, labels).tolist()))

    def shown(self, value: Any) -> list[str]:
        """Return the names of the labels of a row of 0 and 1."""
        return [self.labels[i] for i in np.flatnonzero(value)]

    def predictions(self, scores: NDArray[Any], examples: "Dataset") -> list[dict[str, Any]]:
        """Return the `labels` of every example, and the `probabilities` of all labels."""
        chances = _sigmoid(scores)
        return [
            {"labels": self.shown(row), "probabilities": dict(zip(self.labels, map(float, chance), strict=True))}
            for row, chance in zip(self.predicted(scores), chances, strict=True)
        ]

    def mistakes(self, scores: NDArray[Any], labels: NDArray[Any], most: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the examples with a wrong label that have the largest loss; label and prediction are joined names."""
        losses, predicted = self.losses(scores, labels), self.predicted(scores)
        wrong = np.flatnonzero((predicted != labels).any(axis=1))
        return [
            (
                i,
                {
                    "label": ", ".join(self.shown(labels[i])) or "-",
                    "prediction": ", ".join(self.shown(predicted[i])) or "-",
                    "loss": float(losses[i]),
                },
            )
            for i in largest_first(losses, wrong, most)
        ]

    def class_table(self, scores: NDArray[Any], labels: NDArray[Any]) -> dict[str, Any]:
        """Return precision, recall, F1, support and threshold of every label."""
        from sklearn.metrics import precision_recall_fscore_support

        predicted = self.predicted(scores)
        columns = precision_recall_fscore_support(labels, predicted, average=None, zero_division=0.0)
        thresholds = _sigmoid(np.array(self.thresholds or [0.0] * self.num_outputs))
        return {
            "classes": [
                {
                    "label": name,
                    "precision": float(precision),
                    "recall": float(recall),
                    "f1": float(f1),
                    "support": int(support),
                    "predicted": int(called),
                    "threshold": float(threshold),
                }
                for name, precision, recall, f1, support, called, threshold in zip(
                    self.labels, *columns, predicted.sum(axis=0), thresholds, strict=True
                )
            ]
        }

    def are_equal(self, labels: NDArray[Any]) -> bool:
        """Return whether all examples have the same labels."""
        return bool((labels == labels[0]).all())

    def judge(self, predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
        """Warn of predictions that are the same for every text, or in which a label never occurs."""
        return judging.judge_labels(self.labels, predicted, labels, where)

    def is_unequal(self, labels: NDArray[Any]) -> bool:
        """Return whether one label has several times the examples of another."""
        counts = labels.sum(axis=0)
        return bool(counts.max() >= UNEQUAL * max(1, counts.min()))

    def probe_problem(self, labels: ArrayLike) -> str | None:
        """Say so if no label tells examples apart."""
        return "the training examples all have the same labels" if self.are_equal(np.asarray(labels)) else None

    def fit_linear(
        self,
        features: NDArray[Any],
        labels: NDArray[Any],
        strengths: Sequence[float],
        class_weights: NDArray[Any] | None,
        has_bias: bool,
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Fit a logistic regression for every label; a label that does not occur is never predicted."""
        return linear.fit_logistics(features, labels, strengths, class_weights, has_bias)

    def fitted_losses(self, scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
        """Return the mean over labels of the cross entropies of logistic regressions, each on its own output."""
        values, targets = linear.standardised(scores), np.asarray(labels)
        return np.mean([linear.logistic_losses(values[:, [k]], targets[:, k]) for k in range(self.num_outputs)], axis=0)


def binary_cross_entropies(scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cross entropy of every logit, (n, k) float64, in nats: log(1 + e^s) - y s."""
    values = np.asarray(scores, dtype=np.float64)
    return np.logaddexp(0.0, values) - labels * values


def _sigmoid(scores: NDArray[Any]) -> NDArray[np.float64]:
    from scipy.special import expit

    return expit(np.asarray(scores, dtype=np.float64))


def _flag(cell: Any, column: str, place: str) -> int:
    word = str(cell).strip().lower()
    if word in POSITIVE or word in NEGATIVE:
        return int(word in POSITIVE)
    raise DataError(f"{place}: column '{column}' is {str(cell)[:40]!r}, and a label column holds 0 or 1.")
