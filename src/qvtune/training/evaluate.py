"""`evaluate`: a model's outputs for examples. A run, the commands, the search and the lab all use this."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from qvtune.device import device_of
from qvtune.progress import track
from qvtune.roles.modes import evaluating
from qvtune.tasks.examples import TUNING
from qvtune.tasks.metrics import combine_splits
from qvtune.tasks.task import Task
from qvtune.training.batches import Collate, EvaluationBatches
from qvtune.training.finite import NotFinite
from qvtune.training.objective import Batch
from qvtune.training.seeds import kept_random_state


@dataclass(frozen=True)
class Evaluation:
    """A model's outputs and metrics on the evaluation sets.

    Attributes:
        step: the step after which it was measured.
        task: the run's, with what was fitted on the tuning set.
        metrics: named as the run reports them.
        scores: the model's outputs by split, (examples, classes) or (examples, 1), in the order of the data.
        labels: class ids or numbers by split, (examples,).
    """

    step: int
    task: Task
    metrics: dict[str, float]
    scores: dict[str, NDArray[Any]]
    labels: dict[str, NDArray[Any]]

    @property
    def task_metrics(self) -> dict[str, float]:
        """The metrics of the task, without the losses."""
        return {name: value for name, value in self.metrics.items() if "loss" not in name.split("_")}

    @property
    def reported(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Outputs and labels of the splits that are reported, one after the other."""
        splits = [split for split in self.scores if split != TUNING]
        scores, labels = ([part[split] for split in splits] for part in (self.scores, self.labels))
        return np.concatenate(scores), np.concatenate(labels)


def evaluate(model: nn.Module, task: Task, batches: Iterable[Batch]) -> list[NDArray[np.float32]]:
    """Return a model's outputs for every batch, in evaluation mode: (examples, ...) float32, in the task's form.

    The model computes in the precision of the caller's autocast. Its mode is restored afterwards.
    """
    device, found = device_of(model), []
    with evaluating(model), torch.no_grad():
        for batch in batches:
            placed = send_to_device(batch, device)
            found.append(task.scores(task.forward(model, placed), placed))
    return found


def evaluate_set(
    model: nn.Module, task: Task, batches: EvaluationBatches, console: Console | None = None
) -> NDArray[np.float32]:
    """Return a model's outputs for a set, in the order of the data.

    Args:
        model: on its device.
        task: says which outputs count.
        batches: the set's.
        console: where progress goes, if anywhere.
    """
    shown: Iterable[Batch] = batches
    if console is not None:
        shown = track(batches, batches.examples, "scoring", console, size=batches.batch_size, unit="examples")
    return task.joined(batches.as_given(np.concatenate(evaluate(model, task, shown))), batches.tokens)


def labels_of(task: Task, tokens: Dataset) -> NDArray[Any]:
    """Return the labels of tokenised examples in their order, as the task holds them."""
    return task.joined(task.label_array(tokens["labels"][:]), tokens)


def measure(
    task: Task, scores: Mapping[str, NDArray[Any]], labels: Mapping[str, NDArray[Any]], step: int = 0
) -> Evaluation:
    """Compute the task's metrics and the mean loss of every split; all splits but the tuning set are also combined.

    What the task fits on a tuning set, such as thresholds, is fitted first.

    Args:
        task: the run's.
        scores: outputs by split.
        labels: labels by split.
        step: the step after which the outputs were computed.
    """
    if TUNING in scores:
        task = task.fitted(scores[TUNING], labels[TUNING])
    by_split = {
        split: task.metrics(found, labels[split]) | {"loss": task.mean_loss(found, labels[split])}
        for split, found in scores.items()
    }
    tuning = by_split.pop(TUNING, {})
    metrics = combine_splits(task, by_split) | {f"{TUNING}_{name}": value for name, value in tuning.items()}
    return Evaluation(step, task, metrics, dict(scores), dict(labels))


class Evaluator:
    """Evaluates a model on a run's sets; with several processes, each evaluates its share.

    Args:
        task: the run's.
        splits: tokens by split: what the model is given, and the labels.
        collate: makes a batch from rows.
        batch_size: examples per batch.
        accelerator: this process's; it holds the precision.
        shown: takes batches and their number, yields the batches and shows the progress.
        write: lets a model write answers and returns their metrics, for a task that writes.
    """

    def __init__(
        self,
        task: Task,
        splits: Mapping[str, Dataset],
        collate: Collate,
        batch_size: int,
        accelerator: Accelerator,
        shown: Callable[[Iterable[Batch], int], Iterable[Batch]],
        write: Callable[[nn.Module], dict[str, float]] | None = None,
    ) -> None:
        self.task, self.accelerator, self.shown, self.write = task, accelerator, shown, write
        self.labels = {split: labels_of(task, tokens) for split, tokens in splits.items()}
        self.batches = {split: EvaluationBatches(tokens, collate, batch_size) for split, tokens in splits.items()}

    def __call__(self, model: nn.Module, step: int) -> Evaluation:
        """Return the evaluation of a model after `step`. It does not change the training, however often it is called.

        Raises:
            NotFinite: if an output is not finite.
        """
        scores = {}
        with kept_random_state(self.accelerator.device), self.accelerator.autocast():
            for split, batches in self.batches.items():
                scores[split] = self._scores(model, batches)
                if not self.task.is_finite(scores[split]):
                    raise NotFinite(f"an output on the {split} set")
            written = {} if self.write is None else self.write(model)
        found = measure(self.task, scores, self.labels, step)
        return replace(found, metrics=found.metrics | written)

    def _scores(self, model: nn.Module, batches: EvaluationBatches) -> NDArray[np.float32]:
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        own = evaluate(model, self.task, self.shown(batches.share(process, processes), len(batches)))
        if processes > 1:
            gathered = gather_object([own])
            own = [gathered[place % processes][place // processes] for place in range(len(batches))]
        return self.task.joined(batches.as_given(np.concatenate(own)), batches.tokens)
