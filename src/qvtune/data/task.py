"""`Task`: what is predicted, under which names, and how it is measured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from datasets import Dataset

from qvtune.errors import DataError

CLASSIFICATION = "classification"
REGRESSION = "regression"


@dataclass(frozen=True)
class Task:
    """A classification or regression task over one or two texts.

    `labels` are the names of the classes in the order of their ids (empty for regression); `metrics` names a row of
    `metrics.METRICS`; `text_columns` and `label_column` are the names in the source, used again on new data.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    metrics: str
    main_metric: str
    text_columns: tuple[str, ...]
    label_column: str

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the model's head: one per class, or 1 for regression."""
        return len(self.labels) if self.kind == CLASSIFICATION else 1

    def collator(self, tokenizer: Any) -> Any:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def outputs(self, outputs: Any) -> Any:
        return outputs["logits"].float()

    def loss(self, outputs: Any, batch: Any, class_weights: Any = None) -> Any:
        from torch import nn, tensor

        logits, labels = outputs["logits"].float(), batch["labels"]
        if self.kind == CLASSIFICATION:
            weights = None if class_weights is None else tensor(class_weights, device=logits.device)
            return nn.functional.cross_entropy(logits, labels, weight=weights, reduction="sum")
        return nn.functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")

    def weight(self, batch: Any, class_weights: Any = None) -> Any:
        from torch import tensor

        labels = batch["labels"]
        if class_weights is None:
            return tensor(float(len(labels)), device=labels.device)
        return tensor(class_weights, device=labels.device)[labels].sum()

    def losses(self, scores: Any, labels: Any) -> Any:
        from qvtune.data.metrics import compute_losses

        return compute_losses(self, scores, labels)

    def metrics_of(self, scores: Any, labels: Any) -> Any:
        from qvtune.data.metrics import compute_metrics

        return compute_metrics(self, scores, labels)

    def label_id(self, name: str, where: str) -> int:
        """Return the id of a class.

        Raises:
            DataError: if training never saw the class; `where` says where it was met.
        """
        if name not in self.labels:
            raise DataError(
                f"{where}: label '{name}' does not occur in the training data, which has {', '.join(self.labels)}. "
                "Correct the label, or train on data that has it."
            )
        return self.labels.index(name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Task":
        """Read what `to_dict` gave."""
        return cls(**{**data, "labels": tuple(data["labels"]), "text_columns": tuple(data["text_columns"])})


@dataclass(frozen=True)
class TextData:
    """A task with its examples.

    Every split has the columns `text`, `text_pair` for two texts, and `label` (class id or float). `evaluation` maps
    split names to data sets; MNLI has two. `notes` says in sentences what was guessed, drawn or left out.
    """

    task: Task
    train: Dataset
    evaluation: dict[str, Dataset]
    notes: tuple[str, ...] = field(default=())

    def with_labels(self, labels: Sequence[str]) -> "TextData":
        """Return the same data with the classes in another order, as a model that was trained before has them.

        Raises:
            DataError: if a class of the data is not among `labels`.
        """
        if tuple(labels) == self.task.labels:
            return self
        new = [name for name in self.task.labels if name not in labels]
        if new:
            raise DataError(
                f"{self.task.name}: the label '{new[0]}' is none that the run was trained on ({', '.join(labels)})."
            )
        ids = [list(labels).index(name) for name in self.task.labels]

        def reorder(dataset: Dataset) -> Dataset:
            renumbered = [ids[label] for label in dataset["label"]]
            return dataset.remove_columns("label").add_column("label", renumbered)

        evaluation = {split: reorder(dataset) for split, dataset in self.evaluation.items()}
        return replace(
            self, task=replace(self.task, labels=tuple(labels)), train=reorder(self.train), evaluation=evaluation
        )
