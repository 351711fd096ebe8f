"""`Regression`: a number for a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvtune.data.columns import as_number, is_integer
from qvtune.errors import DataError
from qvtune.tasks import judging, linear
from qvtune.tasks.task import Task, largest_first, logits_of

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from qvtune.data.records import Records

# Labels with at most this many values, all whole numbers, may be classes.
FEW_VALUES = 5


@dataclass(frozen=True)
class Regression(Task):
    """Finite numbers, one output, and the squared error; scores are (n, 1) or (n,)."""

    kind: ClassVar[str] = "regression"
    noun: ClassVar[str] = "a regression"
    problem_type: ClassVar[str | None] = "regression"
    loss_name: ClassVar[str] = "squared error"
    mistake_size: ClassVar[str] = "error"

    @classmethod
    def from_records(cls, name: str, records: "Records") -> "Regression":
        """Make the task for a user's own data.

        Raises:
            DataError: if a label is not a number, or all are the same.
        """
        numbers = {as_number(value, place) for value, place in zip(records.labels, records.places, strict=True)}
        if len(numbers) < 2:
            raise DataError(f"{records.source}: every row has the label {numbers.pop()}; there is nothing to learn.")
        return cls(name, (), "numbers", "pearson", records.text_columns, records.label_column)

    def label_of(self, value: Any, place: str) -> float:
        """Return a label as a float.

        Raises:
            DataError: if it is not a finite number.
        """
        return as_number(value, place)

    def explain_guess(self, values: Sequence[Any], places: Sequence[str]) -> str:
        """Say why the labels count as numbers; if one is not a whole number, name it."""
        number, place = next(
            ((value, place) for value, place in zip(values, places, strict=True) if not is_integer(str(value))),
            (values[0], places[0]),
        )
        return (
            f"Guessed from the labels: they are numbers with a point, such as {str(number).strip()} ({place}), so this "
            "is a regression. If they name classes, give --task-type classification."
        )

    def describe_examples(self, labels: Sequence[float]) -> str:
        """Say the range of the labels, and whether they may be classes."""
        text = f"Regression, {len(labels):,} training examples with labels from {min(labels)} to {max(labels)}."
        if len(set(labels)) <= FEW_VALUES and all(float(label).is_integer() for label in labels):
            text += " They are whole numbers: if they name classes, give --task-type classification."
        return text

    @property
    def num_outputs(self) -> int:
        """One output, the number."""
        return 1

    def loss(self, outputs: Any, batch: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> "Tensor":
        """Return Σ (y_i − ŷ_i)²."""
        from torch.nn.functional import mse_loss

        return mse_loss(logits_of(outputs).squeeze(-1), batch["labels"].float(), reduction="sum")

    def losses(self, scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Return the squared error of every example, (n,)."""
        return (np.asarray(scores, dtype=np.float64).reshape(-1) - labels) ** 2

    def predicted(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers, (n,)."""
        return scores.reshape(-1)

    def predictions(self, scores: NDArray[Any], examples: "Dataset") -> list[dict[str, Any]]:
        """Return the `score` of every example."""
        return [{"score": float(score)} for score in self.predicted(scores)]

    def mistakes(self, scores: NDArray[Any], labels: NDArray[Any], most: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the examples with the largest absolute `error`."""
        values = self.predicted(scores).astype(np.float64)
        errors = np.abs(values - labels)
        return [
            (i, {"label": float(labels[i]), "prediction": float(values[i]), "error": float(errors[i])})
            for i in largest_first(errors, np.flatnonzero(errors > 0), most)
        ]

    def judge(self, predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
        """Warn of predictions that are one number, are unrelated to the labels, or are worse than their mean."""
        return judging.judge_numbers(predicted, labels, where)

    def probe_problem(self, labels: ArrayLike) -> str | None:
        """Return None: any numbers will do."""
        return None

    def fit_linear(
        self,
        features: NDArray[Any],
        labels: NDArray[Any],
        strengths: Sequence[float],
        class_weights: NDArray[Any] | None,
        has_bias: bool,
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Fit ridge regressions."""
        return linear.fit_ridge(features, labels, strengths, has_bias)

    def resting_output(self, labels: NDArray[Any]) -> float:
        """Return the mean of the labels."""
        return float(labels.mean())

    def fitted_losses(self, scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
        """Return the squared error of a line through the outputs."""
        return linear.line_losses(linear.standardised(scores), np.asarray(labels))
