"""Losses after the best affine map of the outputs."""

import numpy as np
import pytest
from scipy.optimize import minimize

from qvtune.tasks.classification import Classification
from qvtune.tasks.regression import Regression
from qvtune.tasks.task import Task

TWO = Classification("t", ("a", "b"), "classes", "accuracy", ("text",), "label")
THREE = Classification("t", ("a", "b", "c"), "classes", "accuracy", ("text",), "label")
NUMBER = Regression("t", (), "numbers", "pearson", ("text",), "label")
RNG = np.random.default_rng(7)


def test_of_a_regression_it_is_what_pearson_leaves() -> None:
    labels = RNG.normal(size=300)
    scores = 5 - 3 * labels + RNG.normal(size=300)
    losses = NUMBER.fitted_losses(scores[:, None], labels)
    pearson = np.corrcoef(scores, labels)[0, 1]
    assert losses.mean() == pytest.approx(labels.var() * (1 - pearson**2))


def test_of_a_classification_it_is_a_logistic_regression() -> None:
    labels = RNG.integers(0, 2, 400)
    scores = np.stack([np.zeros(400), 8 + 0.2 * (labels + RNG.normal(size=400))], axis=1)

    def loss(weights: np.ndarray) -> float:
        z = weights[0] + weights[1] * scores[:, 1]
        return float(np.mean(np.logaddexp(0, np.where(labels == 1, -z, z))))

    best = minimize(loss, np.zeros(2), method="BFGS")
    assert TWO.fitted_losses(scores, labels).mean() == pytest.approx(best.fun, abs=2e-3)


@pytest.mark.parametrize("task", [TWO, THREE, NUMBER])
def test_scale_and_shift_of_the_outputs_do_not_matter(task: Task) -> None:
    width = max(1, len(task.labels))
    labels = RNG.integers(0, width, 200) if task.labels else RNG.normal(size=200)
    scores = RNG.normal(size=(200, width)) + labels[:, None]
    one, two = task.fitted_losses(scores, labels), task.fitted_losses(1e-4 * scores - 30, labels)
    assert one == pytest.approx(two, abs=1e-6)


def test_outputs_that_say_nothing_have_the_entropy_of_the_labels() -> None:
    labels = np.array([0, 1] * 100)
    assert TWO.fitted_losses(np.zeros((200, 2)), labels).mean() == pytest.approx(np.log(2))
    assert TWO.fitted_losses(RNG.normal(size=(200, 2)), np.zeros(200, int)).max() == 0.0
