"""The probe beside scikit-learn's own pipeline and formulas in float64."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from qvtune.tasks.classification import Classification
from qvtune.tasks.multilabel import Multilabel
from qvtune.tasks.regression import Regression
from qvtune.tasks.task import Task
from qvtune.training.start.probe import STRENGTHS, fit_probe


def task(classes: int) -> Task:
    kind = Classification if classes else Regression
    labels = tuple(map(str, range(classes)))
    return kind("made up", labels, "classes" if classes else "numbers", "accuracy", ("text",), "label")


def blobs(count: int, classes: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points about one center for each class, on features of very different sizes and far from zero."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    points = generator.normal(size=(classes, 12))[labels] + noise * generator.normal(size=(count, 12))
    return points * np.logspace(-2, 2, 12) + 5, labels


@pytest.mark.parametrize("classes", [2, 5])
def test_is_scikit_learns_regression_at_the_strength_that_was_chosen(classes: int) -> None:
    features, labels = blobs(240, classes, noise=1.0)
    probe = fit_probe(features, labels, task(classes), seed=0)
    scaled = (features - features.mean(axis=0)) / np.sqrt((features**2).mean(axis=0))
    expected = LogisticRegression(C=probe.strength / len(features), tol=1e-8, max_iter=5000).fit(scaled, labels)
    ours = softmax(probe.scores(features), axis=1)
    assert np.abs(ours - expected.predict_proba(scaled)).max() < 0.01
    assert probe.weight.shape == (classes, 12)


def test_noise_asks_for_more_regularisation() -> None:
    clear, noisy = (fit_probe(*blobs(120, 2, noise), task(2), seed=0) for noise in (0.3, 6.0))
    assert clear.strength > noisy.strength
    assert set(STRENGTHS) >= {clear.strength, noisy.strength}


def test_held_out_loss_is_of_examples_that_were_not_fitted() -> None:
    # Labels that features say nothing about: a loss below chance would be one on examples that were fitted.
    losses = []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        features, labels = generator.normal(size=(60, 200)), generator.integers(0, 2, 60)
        losses.append(fit_probe(features, labels, task(2), seed=0).held_out_loss)
    assert np.mean(losses) > 0.97 * np.log(2)


def test_large_sets_are_held_out_once() -> None:
    features, labels = blobs(1_500, 3, noise=0.5)
    probe = fit_probe(features, labels, task(3), seed=0)
    assert (probe.scores(features).argmax(axis=1) == labels).mean() > 0.95
    assert probe.held_out_loss < 0.2


def test_regression_is_ridge() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(80, 6)) * [1, 10, 0.1, 5, 2, 1] + 3
    labels = 1_000 + 40 * features[:, 0] - 3 * features[:, 1] + generator.normal(size=80)
    probe = fit_probe(features, labels, task(0), seed=0)
    x = (features - features.mean(axis=0)) / np.sqrt((features**2).mean(axis=0))
    y = labels - labels.mean()
    w = np.linalg.solve(x.T @ x + len(x) / probe.strength * np.eye(6), x.T @ y)
    assert np.allclose(probe.scores(features)[:, 0], x @ w + labels.mean())
    assert np.corrcoef(probe.scores(features)[:, 0], labels)[0, 1] > 0.99


def test_without_a_bias_the_layer_has_none() -> None:
    features, labels = blobs(200, 3, noise=0.5)
    probe = fit_probe(features, labels, task(3), seed=0, has_bias=False)
    assert not probe.bias.any()
    assert (probe.scores(features).argmax(axis=1) == labels).mean() > 0.9


def test_a_class_without_an_example_is_never_predicted() -> None:
    features, labels = blobs(60, 3, noise=0.5)
    probe = fit_probe(features, labels * 2, task(6), seed=0)
    assert probe.weight.shape == (6, 12)
    assert set(probe.scores(features).argmax(axis=1)) == {0, 2, 4}


def test_class_weights_move_the_boundary() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(400) < 0.1).astype(int)
    features = labels[:, None] + generator.normal(size=(400, 4))
    plain = fit_probe(features, labels, task(2), seed=0)
    weighted = fit_probe(features, labels, task(2), seed=0, class_weights=[0.55, 5.0])
    found = [(probe.scores(features).argmax(axis=1) == 1).mean() for probe in (plain, weighted)]
    assert found[0] < 0.1 < found[1]


@pytest.mark.parametrize("counts", [(1, 1), (1, 3), (1, 9, 1), (2, 2)], ids=str)
def test_a_handful_of_examples(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    features = np.random.default_rng(0).normal(size=(len(labels), 8)) + 3 * labels[:, None]
    probe = fit_probe(features, labels, task(len(counts)), seed=0)
    assert np.isfinite(probe.weight).all()
    assert (probe.scores(features).argmax(axis=1) == labels).mean() >= max(counts) / len(labels)


def test_a_feature_that_never_changes() -> None:
    features, labels = blobs(60, 2, noise=0.3)
    features[:, 3] = 7.0
    probe = fit_probe(features, labels, task(2), seed=0)
    assert np.isfinite(probe.weight).all()
    assert np.isfinite(probe.bias).all()


def test_more_classes_than_held_out_examples() -> None:
    labels = np.arange(1_100) // 3
    task = Classification("mine", tuple(map(str, range(367))), "classes", "accuracy", ("text",), "label")
    found = fit_probe(np.random.default_rng(0).normal(size=(1_100, 2)), labels, task, 0)
    assert found.weight.shape == (367, 2)


def test_few_examples_with_several_labels() -> None:
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]] * 3)
    task = Multilabel("mine", ("a", "b"), "labels", "f1_micro", ("text",), "label")
    found = fit_probe(labels + np.random.default_rng(0).normal(size=(12, 2)) / 5, labels, task, 0)
    assert ((found.scores(labels) > 0) == labels).all()
