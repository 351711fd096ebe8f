"""`TextData`: a task with its examples."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from datasets import Dataset

from qvtune.errors import DataError
from qvtune.tasks.task import Task

# The split that chooses the checkpoint and fits what a kind of task fits; no result is reported on it.
TUNING = "tuning"


@dataclass(frozen=True)
class TextData:
    """A task with its examples.

    Every split has the columns `text`, `text_pair` for two texts, and `label` (class id or float). `evaluation` maps
    split names to data sets; MNLI has two. `notes` says in sentences what was guessed, sampled or left out.
    """

    task: Task
    train: Dataset
    evaluation: dict[str, Dataset]
    notes: tuple[str, ...] = field(default=())

    def with_labels(self, labels: Sequence[str]) -> "TextData":
        """Return the same data with the classes in another order, such as that of a model that was trained before.

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

        def reorder(dataset: Dataset) -> Dataset:
            renumbered = [self.task.renumbered(label, labels) for label in dataset["label"][:]]
            return dataset.remove_columns("label").add_column("label", renumbered)

        evaluation = {split: reorder(dataset) for split, dataset in self.evaluation.items()}
        return replace(
            self, task=replace(self.task, labels=tuple(labels)), train=reorder(self.train), evaluation=evaluation
        )
