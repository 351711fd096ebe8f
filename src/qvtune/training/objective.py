"""Objectives: what a step makes small, as a sum over examples and the number that it is divided by."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qvtune.tasks.task import Task

# What a model is given, and the labels: tensors by name.
Batch = Mapping[str, Any]
# Takes a model and a batch and returns the mean loss over its examples.
Loss = Callable[[nn.Module, Batch], Tensor]


class Objective(Protocol):
    """What training makes small. Sum and count are separate, so parts of a step add up to the mean of the whole."""

    def total(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of the batch's examples, summed: () float32."""

    def count(self, batch: Batch) -> Tensor:
        """Return what the sum is divided by, such as the number of examples: (), known before any forward pass."""


class TaskObjective:
    """The loss of a task, weighted by class if weights are given. Evaluation is unweighted.

    Args:
        task: the run's.
        class_weights: weight of every class; all equal when None.
    """

    def __init__(self, task: Task, class_weights: list[float] | None = None) -> None:
        self.task, self.class_weights = task, class_weights

    def total(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the summed loss of the batch: () float32."""
        return self.task.loss(self.task.forward(model, batch), batch, self.class_weights)

    def count(self, batch: Batch) -> Tensor:
        """Return the sum of the weights of the batch's examples: ()."""
        return self.task.count(batch, self.class_weights)


class MeanLoss:
    """The objective for a loss that already is a mean: the mean over the step's batches.

    Args:
        loss: takes a model and a batch.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def total(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the batch's loss."""
        return self.loss(model, batch)

    def count(self, batch: Batch) -> Tensor:
        """Return 1: a batch counts as one, whatever it holds."""
        device = next((value.device for value in batch.values() if isinstance(value, Tensor)), None)
        return torch.ones((), device=device)
