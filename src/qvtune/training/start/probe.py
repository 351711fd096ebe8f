"""The linear probe: a linear layer fitted on frozen features, as strongly regularised as held-out examples ask for."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvtune.tasks.task import Task

# Weights of the fit in the objective: mean loss + ‖w‖² / (2 strength), on features of unit root mean square.
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
# Examples up to which the strength is chosen by cross-validation; beyond, one held-out part says enough.
CROSS_VALIDATED = 1_000
FOLDS = 5
HELD_OUT = 0.2


@dataclass(frozen=True)
class Probe:
    """A linear layer and how good it was on examples that it was not fitted on.

    Attributes:
        weight: (outputs, features).
        bias: (outputs,).
        strength: which of `STRENGTHS` was chosen.
        held_out_loss: mean cross entropy, or squared error, of the examples held out to choose it.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    strength: float
    held_out_loss: float

    def scores(self, features: NDArray) -> NDArray[np.float64]:
        """Return (examples, outputs) logits, or predictions of a regression, for (examples, features)."""
        return features @ self.weight.T + self.bias


def fit_probe(
    features: NDArray,
    labels: ArrayLike,
    task: Task,
    seed: int,
    class_weights: ArrayLike | None = None,
    *,
    has_bias: bool = True,
) -> Probe:
    """Fit the linear head of a task: for classes multinomial logistic regression, for numbers ridge regression.

    Features are centred, and divided by what their root mean square was before, so that one which hardly changes gets a
    small weight: dropout in front of a head takes away its whole value (Wager et al. 2013, "Dropout Training as
    Adaptive Regularization"). The layer that is returned takes features as they are. The strength is the one with the
    lowest loss over held-out examples; the fit is then made on all of them.

    Args:
        features: (examples, features).
        labels: (examples,) class ids or floats.
        task: says which, and how many outputs there are; a class that does not occur is never predicted.
        seed: of the parts that are held out.
        class_weights: weight of every class in the loss, all alike when None.
        has_bias: whether the layer has one; without, features are not centred, and `bias` is zero.
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


def root_mean_square(features: NDArray) -> NDArray[np.float64]:
    """Return (features,) of (examples, features), 1 for a feature that is always zero."""
    size = np.sqrt(np.mean(np.square(features, dtype=np.float64), axis=0))
    return np.where(size > 0, size, 1.0)


def _parts(targets: NDArray, task: Task, seed: int) -> list[tuple[NDArray, NDArray]]:
    """Return which examples are fitted on and which are held out, by fold; none where there are too few."""
    from sklearn.model_selection import KFold, ShuffleSplit, StratifiedKFold, StratifiedShuffleSplit

    count = len(targets)
    strata = task.strata(targets.tolist())
    of_class = np.array([count]) if strata is None else np.unique(strata, return_counts=True)[1]
    stratified = strata is not None and of_class.min() >= 2
    folds = min(FOLDS, int(of_class.max()) if stratified else count)
    if count < 4:
        return []
    if count > CROSS_VALIDATED:
        kind: Any = StratifiedShuffleSplit if stratified else ShuffleSplit
        splitter = kind(1, test_size=HELD_OUT, random_state=seed)
    else:
        kind = StratifiedKFold if stratified else KFold
        splitter = kind(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer examples than there are folds
        parts = list(splitter.split(np.zeros((count, 1)), strata if stratified else None))
    return [(rest, out) for rest, out in parts if task.probe_problem(targets[rest]) is None]


def _losses(task: Task, scores: NDArray, targets: NDArray, weights: NDArray | None) -> NDArray:
    """Return the loss of every example, weighted by class so that the mean over the examples is the objective's."""
    losses = task.losses(scores, targets)
    return losses if weights is None else losses * weights[targets] / weights[targets].mean()
