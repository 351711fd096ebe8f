"""Warnings about predictions: that they distinguish nothing, or agree with the labels only by chance."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvtune.amounts import join_words

# The subjects of warnings. The first five say that the predictions show no learning.
ONE_CLASS, MAJORITY, CHANCE, CONSTANT, UNCORRELATED = "one_class", "majority", "chance", "constant", "uncorrelated"
NEVER, MEAN = "never", "mean"
NOTHING_LEARNED = frozenset({ONE_CLASS, MAJORITY, CHANCE, CONSTANT, UNCORRELATED})

# With fewer examples than this, all may get the same prediction, or be missed, by accident.
FEWEST = 5
# With fewer examples than this, a test against chance says too little.
FEWEST_TO_TEST = 30
# A macro F1 is near the majority's if it has covered less than this fraction of the way from there to 1.
NEAR = 0.05
# Agreement within this many standard deviations counts as chance.
CHANCE_REACHES = 2.0
# Predicted numbers count as one number if their spread is less than this fraction of the labels' spread.
FLAT = 0.01
# How many classes a warning names.
LISTED = 5


def judge_classes(names: Sequence[str], predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
    """Return the first warning about predicted classes, by its subject; nothing if they are good.

    Args:
        names: names of the classes, by id.
        predicted: (n,) class ids.
        labels: (n,) class ids, not all the same.
        where: the set in words, such as "the validation set".
    """
    return (
        _one_class(names, predicted, labels, where)
        or _majority(names, predicted, labels, where)
        or _chance(names, predicted, labels, where)
        or _never(names, predicted, labels, where)
    )


def judge_labels(names: Sequence[str], predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
    """Return the first warning about several predicted labels, by its subject; nothing if they are good.

    Args:
        names: names of the labels.
        predicted: (n, k) of 0 and 1.
        labels: (n, k) of 0 and 1, with rows that differ.
        where: the set in words.
    """
    from sklearn.metrics import f1_score

    if (predicted == predicted[0]).all():
        called = (
            join_words([f"'{name}'" for name, is_called in zip(names, predicted[0], strict=True) if is_called])
            or "no label"
        )
        return {ONE_CLASS: f"all {len(labels):,} predictions on {where} are {called}: the model tells no texts apart."}
    # The best constant prediction has the most frequent labels, down to some one of them.
    ranked = np.sort(labels.sum(axis=0))[::-1]
    constant = float(np.max(2 * np.cumsum(ranked) / (np.arange(1, len(ranked) + 1) * len(labels) + ranked.sum())))
    found = float(f1_score(labels, predicted, average="micro", zero_division=0.0))
    if found < constant + NEAR * (1 - constant):
        return {
            MAJORITY: f"micro F1 is {found:.3f} on {where} ({len(labels):,} examples), where the same labels for every "
            f"text have {constant:.3f}: the model has learned next to nothing."
        }
    missed = [i for i, n in enumerate(labels.sum(axis=0)) if n >= FEWEST and not predicted[:, i].any()]
    return {NEVER: _never_found(names, labels.sum(axis=0), missed, where)} if missed else {}


def judge_tags(predicted: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], where: str) -> dict[str, str]:
    """Return the first warning about predicted entities or tags, by its subject; nothing if they are good.

    Args:
        predicted: the types that were found in every text, or its tags.
        labels: the same of the labels.
        where: the set in words.
    """
    found, wanted = (Counter(kind for kinds in rows for kind in kinds) for rows in (predicted, labels))
    if len(found) < 2 and len(wanted) > 1:
        what = f"'{next(iter(found))}' alone" if found else "nothing"
        return {ONE_CLASS: f"{what} was found on {where}, which has {wanted.total():,}: the model has learned little."}
    missed = sorted((kind for kind, n in wanted.items() if n >= FEWEST and kind not in found))
    return {NEVER: _never_found(missed, [wanted[kind] for kind in missed], range(len(missed)), where)} if missed else {}


def _one_class(names: Sequence[str], predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
    if np.ptp(predicted) > 0:
        return {}
    called = int(predicted[0])
    share = float(np.mean(labels == called))
    return {
        ONE_CLASS: f"all {len(labels):,} predictions on {where} are '{names[called]}', and "
        f"{share:.0%} of the labels are: the model does not tell the classes apart."
    }


def _majority(names: Sequence[str], predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
    from sklearn.metrics import accuracy_score, f1_score

    majority = int(np.bincount(labels).argmax())
    constant = np.full_like(labels, majority)
    ours, theirs = (
        (f1_score(labels, values, average="macro", zero_division=0.0), accuracy_score(labels, values))
        for values in (predicted, constant)
    )
    if ours[0] >= theirs[0] + NEAR * (1 - theirs[0]):
        return {}
    return {
        MAJORITY: f"macro F1 is {ours[0]:.3f} and accuracy {ours[1]:.3f} on {where} ({len(labels):,} examples), "
        f"where calling every one '{names[majority]}' has {theirs[0]:.3f} and {theirs[1]:.3f}: the model "
        "has learned next to nothing."
    }


def _chance(names: Sequence[str], predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
    kappa, deviation = agreement(labels, predicted, len(names))
    if len(labels) < FEWEST_TO_TEST or kappa >= CHANCE_REACHES * deviation:
        return {}
    return {
        CHANCE: f"predictions on {where} agree with the labels no more than by chance (Cohen's kappa "
        f"{kappa:.3f}, and up to {CHANCE_REACHES * deviation:.3f} is chance with {len(labels):,} examples): nothing "
        "that was learned shows."
    }


def _never(names: Sequence[str], predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
    counts = np.bincount(labels, minlength=len(names))
    missed = [i for i, count in enumerate(counts) if count >= FEWEST and not (predicted == i).any()]
    if not missed:
        return {}
    return {NEVER: _never_found(names, counts, missed, where)}


def _never_found(names: Sequence[str], counts: Sequence[int] | NDArray[Any], missed: Sequence[int], where: str) -> str:
    found = [f"{counts[i]:,} are '{names[i]}'" for i in missed[:LISTED]]
    found += [f"others of {len(missed) - LISTED} classes more"] if len(missed) > LISTED else []
    return (
        f"of the labels on {where} {join_words(found)}, and no prediction is: the model has not learned to find them."
    )


def agreement(labels: NDArray[Any], predicted: NDArray[Any], classes: int) -> tuple[float, float]:
    """Return Cohen's kappa, and its standard deviation for predictions that are independent of the labels.

    The deviation is that of Fleiss, Cohen and Everitt (1969): sqrt(e + e² − Σ p q (p + q)) / ((1 − e) sqrt(n)), with p
    and q the shares of a class among labels and predictions, and e = Σ p q.

    Args:
        labels: (n,) class ids.
        predicted: (n,) class ids, not all equal to one class that all labels are.
        classes: number of classes.
    """
    p, q = (np.bincount(values, minlength=classes) / len(labels) for values in (labels, predicted))
    expected = float(p @ q)
    kappa = (float(np.mean(labels == predicted)) - expected) / (1 - expected)
    variance = expected + expected**2 - float(np.sum(p * q * (p + q)))
    return kappa, math.sqrt(max(variance, 0.0)) / ((1 - expected) * math.sqrt(len(labels)))


def judge_numbers(predicted: NDArray[Any], labels: NDArray[Any], where: str) -> dict[str, str]:
    """Return the warnings about predicted numbers, by subject.

    Args:
        predicted: (n,) float64.
        labels: (n,) numbers, not all the same.
        where: the set in words.
    """
    labels = labels.astype(np.float64)
    spread, wanted = float(predicted.std()), float(labels.std())
    if spread < FLAT * wanted:
        return {
            CONSTANT: f"all {len(labels):,} predictions on {where} are near {predicted.mean():.4g} (standard deviation "
            f"{spread:.2g}, that of the labels is {wanted:.2g}): the model gives one number for every text."
        }
    found = {}
    correlation = float(np.corrcoef(labels, predicted)[0, 1])
    chance = CHANCE_REACHES / math.sqrt(len(labels) - 1) if len(labels) >= FEWEST_TO_TEST else 0.0
    if correlation <= chance:
        found[UNCORRELATED] = (
            f"predictions on {where} and labels have the correlation {correlation:.3f}, and up to {chance:.3f} is "
            f"chance with {len(labels):,} examples: nothing that was learned shows."
        )
    error = float(np.mean((predicted - labels) ** 2))
    if error >= wanted**2:
        found[MEAN] = (
            f"the mean squared error on {where} is {error:.4g}, where the mean of the labels for every text has "
            f"{wanted**2:.4g}: as numbers the predictions are worth nothing."
        )
    return found
