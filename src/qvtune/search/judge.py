"""What the outputs of a model say about the labels, whatever their scale."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LinearRegression, LogisticRegression

from qvtune.data.task import CLASSIFICATION, Task


def fitted_losses(task: Task, scores: ArrayLike, labels: ArrayLike) -> NDArray:
    """Return the loss of every example after the best affine map of the model's outputs.

    In the first steps of a run most of the loss is a head that is out of scale, which every rate mends; what the
    outputs tell about the labels shows once that is taken away. For a classification it is the cross entropy of a
    logistic regression on the outputs, for a regression the squared error of a line through them.

    Args:
        task: says which of the two.
        scores: (examples, outputs), finite.
        labels: (examples,), class ids or numbers.
    """
    labels = np.asarray(labels)
    scores = np.asarray(scores, dtype=np.float64).reshape(len(labels), -1)
    spread = scores.std(axis=0)
    scores = (scores - scores.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    if task.kind != CLASSIFICATION:
        return (LinearRegression().fit(scores, labels).predict(scores) - labels) ** 2
    if len(np.unique(labels)) == 1:
        return np.zeros(len(labels))
    fitted = LogisticRegression(max_iter=1000).fit(scores, labels)
    chances = fitted.predict_proba(scores)[np.arange(len(labels)), np.searchsorted(fitted.classes_, labels)]
    return -np.log(np.maximum(chances, np.finfo(float).tiny))
