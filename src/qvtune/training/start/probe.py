"""The linear probe: a linear layer fitted on frozen features; held-out examples choose its regularisation."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvtune.tasks.task import Task

# Candidate strengths in the objective: mean loss + ‖w‖² / (2 strength), on features of unit root mean square.
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
# Up to this many examples, cross-validation chooses the strength; with more, one held-out part is enough.
CROSS_VALIDATED = 1_000
FOLDS = 5
HELD_OUT = 0.2


@dataclass(frozen=True)
class Probe:
    """A linear layer and its loss on examples that it was not fitted on.

    Attributes:
        weight: (outputs, features).
        bias: (outputs,).
        strength: the chosen one of `STRENGTHS`.
        held_out_loss: mean cross entropy, or squared error, on the examples held out to choose the strength.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    strength: float
    held_out_loss: float

    def scores(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Return (examples, outputs) logits, or predictions of a regression, for (examples, features)."""
        return features @ self.weight.T + self.bias


def fit_probe(
    features: NDArray[Any],
    labels: ArrayLike,
    task: Task,
    seed: int,
    class_weights: ArrayLike | None = None,
    *,
    has_bias: bool = True,
) -> Probe:
    """Fit the linear head of a task, by multinomial logistic regression for classes or ridge regression for numbers.

    Features are centred and divided by their root mean square before centring, so that a feature that hardly varies
    gets a small weight: dropout in front of a head removes its whole value (Wager et al. 2013, "Dropout Training as
    Adaptive Regularization"). The returned layer takes features as they are. The strength with the lowest loss on
    held-out examples is chosen; the final fit uses all examples.

    Args:
        features: (examples, features).
        labels: (examples,) class ids or floats.
        task: says which of the two, and how many outputs there are; a class that does not occur is never predicted.
        seed: seed of the held-out parts.
        class_weights: weight of every class in the loss, all equal when None.
        has_bias: whether the layer has a bias; without one, features are not centred, and `bias` is zero.
    """
    values = np.asarray(features, dtype=np.float64)
    center, size = values.mean(axis=0) * has_bias, root_mean_square(values)
    values = (values - center) / size
    targets = np.asarray(labels)
    weights = None if class_weights is None else np.asarray(class_weights, dtype=np.float64)
    parts = _parts(targets, task, seed)
    losses = np.zeros(len(STRENGTHS))
    for rest, held_out in parts:
        fitted = task.fit_linear(values[rest], targets[rest], STRENGTHS, weights, has_bias)
        for place, (weight, bias) in enumerate(fitted):
            scores = values[held_out] @ weight.T + bias
            losses[place] += _losses(task, scores, targets[held_out], weights).mean() / len(parts)
    best = int(np.argmin(losses)) if parts else STRENGTHS.index(10.0)
    weight, bias = task.fit_linear(values, targets, STRENGTHS[: best + 1], weights, has_bias)[-1]
    return Probe(weight / size, bias - (weight / size) @ center, STRENGTHS[best], float(losses[best]))


def root_mean_square(features: NDArray[Any]) -> NDArray[np.float64]:
    """Return the root mean square of every feature: (features,) from (examples, features); 1 if always zero."""
    size = np.sqrt(np.mean(np.square(features, dtype=np.float64), axis=0))
    return np.where(size > 0, size, 1.0)


def _parts(targets: NDArray[Any], task: Task, seed: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return the examples to fit on and those held out, by fold; no folds if there are too few."""
    from sklearn.model_selection import KFold, ShuffleSplit, StratifiedKFold, StratifiedShuffleSplit

    count = len(targets)
    strata = task.strata(list(targets))
    of_class = np.array([count]) if strata is None else np.unique(strata, return_counts=True)[1]
    stratified = strata is not None and of_class.min() >= 2
    folds = min(FOLDS, int(of_class.max()) if stratified else count)
    if count < 4:
        return []
    # A fit for several labels is a fit for each of them.
    if count > CROSS_VALIDATED or targets.ndim > 1:
        fits = len(of_class) <= min(HELD_OUT, 1 - HELD_OUT) * count
        kind: Any = StratifiedShuffleSplit if stratified and fits else ShuffleSplit
        splitter = kind(1, test_size=HELD_OUT, random_state=seed)
    else:
        kind = StratifiedKFold if stratified else KFold
        splitter = kind(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with fewer examples than folds
        parts = list(splitter.split(np.zeros((count, 1)), strata if stratified else None))
    return [(rest, out) for rest, out in parts if task.probe_problem(targets[rest]) is None]


def _losses(task: Task, scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any]:
    """Return the loss of every example, weighted by class so that their mean is the loss in the objective."""
    losses = task.losses(scores, targets)
    if weights is None:
        return losses
    of_examples = task.example_weights(targets, weights)
    return losses * of_examples / of_examples.mean()
