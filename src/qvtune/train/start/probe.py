"""The linear probe: a linear layer fitted on frozen features, as strongly regularised as held-out examples ask for."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvtune.data.metrics import compute_losses
from qvtune.data.task import CLASSIFICATION, Task

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
    """Fit multinomial logistic regression, or ridge regression, by scikit-learn.

    Features are centred, and divided by what their root mean square was before, so that one which hardly changes gets a
    small weight: dropout in front of a head takes away its whole value (Wager et al. 2013, "Dropout Training as
    Adaptive Regularization"). The layer that is returned takes features as they are. The strength is the one with the
    lowest loss over held-out examples; the fit is then made on all of them.

    Args:
        features: (examples, features).
        labels: (examples,) class ids or floats.
        task: says which of the two, and how many classes there are; one that does not occur is never predicted.
        seed: of the parts that are held out.
        class_weights: weight of every class in the loss, all alike when None.
        has_bias: whether the layer has one; without, features are not centred, and `bias` is zero.
    """
    values = np.asarray(features, dtype=np.float64)
    center, size = values.mean(axis=0) * has_bias, root_mean_square(values)
    values = (values - center) / size
    targets = np.asarray(labels)
    fit = _classes if task.kind == CLASSIFICATION else _numbers
    weights = None if class_weights is None else np.asarray(class_weights, dtype=np.float64)
    parts = _parts(targets, task, seed)
    losses = np.zeros(len(STRENGTHS))
    for rest, held_out in parts:
        fitted = fit(values[rest], targets[rest], task, STRENGTHS, weights, has_bias)
        for place, (weight, bias) in enumerate(fitted):
            scores = values[held_out] @ weight.T + bias
            losses[place] += _losses(task, scores, targets[held_out], weights).mean() / len(parts)
    best = int(np.argmin(losses)) if parts else STRENGTHS.index(10.0)
    weight, bias = fit(values, targets, task, STRENGTHS[: best + 1], weights, has_bias)[-1]
    return Probe(weight / size, bias - (weight / size) @ center, STRENGTHS[best], float(losses[best]))


def root_mean_square(features: NDArray) -> NDArray[np.float64]:
    """Return (features,) of (examples, features), 1 for a feature that is always zero."""
    size = np.sqrt(np.mean(np.square(features, dtype=np.float64), axis=0))
    return np.where(size > 0, size, 1.0)


def _parts(targets: NDArray, task: Task, seed: int) -> list[tuple[NDArray, NDArray]]:
    """Return which examples are fitted on and which are held out, by fold; none where there are too few."""
    from sklearn.model_selection import KFold, ShuffleSplit, StratifiedKFold, StratifiedShuffleSplit

    count = len(targets)
    of_class = np.unique(targets, return_counts=True)[1] if task.kind == CLASSIFICATION else np.array([count])
    stratified = task.kind == CLASSIFICATION and of_class.min() >= 2
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
        parts = list(splitter.split(np.zeros((count, 1)), targets if stratified else None))
    return [(rest, out) for rest, out in parts if task.kind != CLASSIFICATION or len(np.unique(targets[rest])) > 1]


def _classes(
    values: NDArray,
    targets: NDArray,
    task: Task,
    strengths: tuple[float, ...],
    weights: NDArray | None,
    has_bias: bool,
) -> list[tuple[NDArray, NDArray]]:
    """Fit logistic regressions of rising strength, each from the one before, and return weights and biases."""
    from sklearn.linear_model import LogisticRegression

    by_class = None if weights is None else {label: float(weights[label]) for label in np.unique(targets)}
    model = LogisticRegression(warm_start=True, max_iter=200, class_weight=by_class, fit_intercept=has_bias)
    fitted = []
    for strength in strengths:
        model.C = strength / len(values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that stop short of the optimum, which are good enough
            model.fit(values, targets)
        weight, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # one row tells the second class from the first
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        # A class without an example gets the lowest bias of all, and so no prediction that another class would have.
        whole = np.zeros((task.num_outputs, values.shape[1]))
        biases = np.full(task.num_outputs, (bias.min() - np.log(len(values))) * has_bias)
        whole[model.classes_], biases[model.classes_] = weight, bias
        fitted.append((whole, biases))
    return fitted


def _numbers(
    values: NDArray,
    targets: NDArray,
    task: Task,
    strengths: tuple[float, ...],
    weights: NDArray | None,
    has_bias: bool,
) -> list[tuple[NDArray, NDArray]]:
    from sklearn.linear_model import Ridge

    # The scale of the labels is not to decide how strongly a probe is regularised, and of Ridge it does not.
    models = [
        Ridge(alpha=len(values) / strength, fit_intercept=has_bias).fit(values, targets) for strength in strengths
    ]
    return [(model.coef_[None], np.array([model.intercept_], dtype=np.float64)) for model in models]


def _losses(task: Task, scores: NDArray, targets: NDArray, weights: NDArray | None) -> NDArray:
    """Return the loss of every example, weighted by class so that the mean over the examples is the objective's."""
    losses = compute_losses(task, scores, targets)
    return losses if weights is None else losses * weights[targets] / weights[targets].mean()
