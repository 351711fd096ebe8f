"""Linear models from scikit-learn: heads fitted on features, and the best affine map of outputs."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Where L-BFGS stops for several labels at once: further steps change held-out losses in the fifth digit.
ENOUGH = {"maxiter": 100, "ftol": 1e-6, "gtol": 1e-5}


def fit_logistic(
    values: NDArray[Any],
    targets: NDArray[Any],
    strengths: Sequence[float],
    weights: NDArray[Any] | None,
    has_bias: bool,
    classes: int,
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Fit logistic regressions of rising strength, each starting from the one before; return weights and biases.

    Args:
        values: (n, d).
        targets: (n,) class ids, of at least two classes.
        strengths: mean loss + ‖w‖² / (2 strength) is minimised.
        weights: (classes,), weights of the classes in the loss.
        has_bias: whether there is a bias.
        classes: number of classes; a class without an example gets the lowest bias of all.
    """
    from sklearn.linear_model import LogisticRegression

    by_class = None if weights is None else {label: float(weights[label]) for label in np.unique(targets)}
    model = LogisticRegression(warm_start=True, max_iter=200, class_weight=by_class, fit_intercept=has_bias)
    fitted = []
    for strength in strengths:
        model.C = strength / len(values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about fits that stop before the optimum, which are good enough
            model.fit(values, targets)
        weight, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # one row decides between the second class and the first
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        # A class without an example gets the lowest bias of all, so it never wins over another class.
        whole = np.zeros((classes, values.shape[1]))
        biases = np.full(classes, (bias.min() - np.log(len(values))) * has_bias)
        whole[model.classes_], biases[model.classes_] = weight, bias
        fitted.append((whole, biases))
    return fitted


def fit_logistics(
    values: NDArray[Any],
    targets: NDArray[Any],
    strengths: Sequence[float],
    weights: NDArray[Any] | None,
    has_bias: bool,
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Fit a logistic regression for each of several labels, all of them at once by L-BFGS, as `fit_logistic` does one.

    Args:
        values: (n, d).
        targets: (n, k) of 0 and 1.
        strengths: for every label, mean loss + ‖w‖² / (2 strength) is minimised; each fit starts from the one before.
        weights: (k,), weights of the losses of examples that have the label.
        has_bias: whether there are biases.

    Returns:
        Weights (k, d) and biases (k,) for every strength. A label without an example is as unlikely as its absence
        from one example more would make it.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, logit

    (n, d), k = values.shape, targets.shape[1]
    shares = (targets.sum(axis=0) + 0.5) / (n + 1)
    present = np.ones(k) if weights is None else np.asarray(weights)
    by_example = np.where(targets > 0, present, 1.0)
    point = np.concatenate([np.zeros((k, d)), has_bias * logit(shares)[:, None]], axis=1)

    def objective(flat: NDArray[Any], strength: float) -> tuple[float, NDArray[Any]]:
        found = flat.reshape(k, d + 1)
        scores = values @ found[:, :d].T + found[:, d]
        losses = by_example * (np.logaddexp(0.0, scores) - targets * scores)
        slopes = by_example * (expit(scores) - targets) / n
        slope = np.concatenate(
            [slopes.T @ values + found[:, :d] / strength, has_bias * slopes.sum(axis=0)[:, None]], axis=1
        )
        return float(losses.sum() / n + (found[:, :d] ** 2).sum() / (2 * strength)), slope.ravel()

    fitted = []
    for strength in strengths:
        found = minimize(objective, point.ravel(), (strength,), "L-BFGS-B", jac=True, options=ENOUGH)
        point = found.x.reshape(k, d + 1)
        fitted.append((point[:, :d].copy(), point[:, d].copy()))
    return fitted


def fit_ridge(
    values: NDArray[Any], targets: NDArray[Any], strengths: Sequence[float], has_bias: bool
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Fit ridge regressions of numbers (n,) on values (n, d), and return weights (1, d) and biases (1,)."""
    from sklearn.linear_model import Ridge

    # The scale of the labels must not decide how strongly a probe is regularised; in Ridge it does not.
    models = [
        Ridge(alpha=len(values) / strength, fit_intercept=has_bias).fit(values, targets) for strength in strengths
    ]
    return [(model.coef_[None], np.array([model.intercept_], dtype=np.float64)) for model in models]


def standardised(scores: ArrayLike) -> NDArray[np.float64]:
    """Return outputs as (n, k), each of mean 0 and, unless it never changes, of standard deviation 1."""
    scores = np.asarray(scores, dtype=np.float64)
    scores = scores.reshape(len(scores), -1)
    spread = scores.std(axis=0)
    return (scores - scores.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def line_losses(scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the squared error of every example after the line through outputs (n, k) that best fits the numbers."""
    from sklearn.linear_model import LinearRegression

    return (LinearRegression().fit(scores, labels).predict(scores) - labels) ** 2


def logistic_losses(scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cross entropy of every example under a logistic regression of class ids on outputs (n, k)."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) == 1:
        return np.zeros(len(labels))
    fitted = LogisticRegression(max_iter=1000).fit(scores, labels)
    chances = fitted.predict_proba(scores)[np.arange(len(labels)), np.searchsorted(fitted.classes_, labels)]
    return -np.log(np.maximum(chances, np.finfo(float).tiny))
