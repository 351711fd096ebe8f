"""Warnings of a run that has learned nothing, or less than it started with: from its predictions and its log."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvtune.data.metrics import standard_error
from qvtune.data.task import CLASSIFICATION, Task
from qvtune.options import option_name
from qvtune.train.config import TrainConfig, join_words

# What a warning is about. The first five say that nothing was learned that shows in the predictions.
ONE_CLASS, MAJORITY, CHANCE, CONSTANT, UNCORRELATED = "one_class", "majority", "chance", "constant", "uncorrelated"
NEVER, MEAN, STILL, BEHIND = "never", "mean", "still", "behind_start"
NOTHING_LEARNED = frozenset({ONE_CLASS, MAJORITY, CHANCE, CONSTANT, UNCORRELATED})

# Fewer examples can all be predicted alike, or be missed, by accident.
FEWEST = 5
# Fewer examples say too little for a test against chance.
FEWEST_TO_TEST = 30
# A macro F1 is near the majority's that has come less than this part of the way from there to 1.
NEAR = 0.05
# Chance reaches this many standard deviations.
CHANCE_REACHES = 2.0
# Predictions of a regression are one number that spread less than this part of what the labels do.
FLAT = 0.01
# A metric that stands still says something where there are so many evaluations,
EVALUATIONS = 3
# and the model has learned, if the validation loss stands still too, within this part of its size.
STILL_LOSS = 0.01
# Classes are unequal where one has so many times the examples of another.
UNEQUAL = 3.0
# Names of classes in a warning.
LISTED = 5
# A loss has risen that ends above so many times its first value.
RISEN = 1.05


class Predictions:
    """What a model made of labelled examples, and where they are from.

    Args:
        task: the run's.
        scores: (examples, classes) logits, or (examples, 1) predictions of a regression.
        labels: (examples,) class ids or numbers.
        where: the set in words, as "the validation set".
    """

    def __init__(self, task: Task, scores: NDArray, labels: NDArray, where: str) -> None:
        self.task, self.labels, self.where = task, labels, where
        self.values = scores.argmax(axis=-1) if task.kind == CLASSIFICATION else scores.reshape(-1).astype(np.float64)

    def __len__(self) -> int:
        return len(self.labels)


def judge_predictions(
    found: Predictions, config: TrainConfig, records: Sequence[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """Return what to warn of in predictions, by what it is about.

    Args:
        found: the predictions.
        config: of the run; it names the options to change.
        records: its log, as in `metrics.jsonl`: rates are to be lowered where the loss has risen.
    """
    if len(found) < FEWEST or np.ptp(found.labels) == 0:
        return {}
    if found.task.kind != CLASSIFICATION:
        return _judge_numbers(found, config, records)
    warning = _one_class(found) or _majority(found) or _chance(found) or _never(found)
    return {name: f"Warning: {text} {_advice(config, records, found)}" for name, text in warning.items()}


def judge_run(
    found: Predictions,
    config: TrainConfig,
    records: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    head_start: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return what to warn of at the end of a run, by what it is about.

    Args:
        found: predictions of the checkpoint that the run ends with, on the sets that it reports.
        config: of the run.
        records: its log.
        metrics: what the run reports.
        head_start: what the head was before the first step: `metrics` of the probe under the names of `metrics`.
    """
    warnings = judge_predictions(found, config, records)
    name = found.task.main_metric
    still = _still(found, records, is_learned=not NOTHING_LEARNED & warnings.keys())
    if still:
        warnings[STILL] = f"Warning: {still} {_advice(config, records, found)}"
    start = ((head_start or {}).get("metrics") or {}).get(name)
    if start is not None and metrics[name] < start:
        warnings[BEHIND] = (
            f"Warning: {_word(name)} is {metrics[name]:.4f}, behind the {start:.4f} of the "
            f"probe that the head started from (one standard error on "
            f"{len(found):,} examples is {standard_error(name, start, len(found)):.4f}): fine-tuning has brought "
            f"nothing. Lower {_rates(config)}, or change {_length(config)}."
        )
    return warnings


def early_warning(
    found: Predictions, config: TrainConfig, records: Sequence[Mapping[str, Any]], told: Collection[str]
) -> dict[str, str]:
    """Return the warning of an evaluation before the last that all predictions are in one class, once in a run.

    Args:
        found: what the model predicted.
        config: of the run.
        records: its log up to the evaluation.
        told: what was warned of before.
    """
    warnings = judge_predictions(found, config, records) if ONE_CLASS not in told else {}
    return {ONE_CLASS: warnings[ONE_CLASS]} if ONE_CLASS in warnings else {}


def _one_class(found: Predictions) -> dict[str, str]:
    if np.ptp(found.values) > 0:
        return {}
    called = int(found.values[0])
    share = float(np.mean(found.labels == called))
    return {
        ONE_CLASS: f"all {len(found):,} predictions on {found.where} are '{found.task.labels[called]}', and "
        f"{share:.0%} of the labels are: the model does not tell the classes apart."
    }


def _majority(found: Predictions) -> dict[str, str]:
    from sklearn.metrics import accuracy_score, f1_score

    majority = int(np.bincount(found.labels).argmax())
    constant = np.full_like(found.labels, majority)
    ours, theirs = (
        (f1_score(found.labels, values, average="macro", zero_division=0.0), accuracy_score(found.labels, values))
        for values in (found.values, constant)
    )
    if ours[0] >= theirs[0] + NEAR * (1 - theirs[0]):
        return {}
    return {
        MAJORITY: f"macro F1 is {ours[0]:.3f} and accuracy {ours[1]:.3f} on {found.where} ({len(found):,} examples), "
        f"where calling every one '{found.task.labels[majority]}' has {theirs[0]:.3f} and {theirs[1]:.3f}: the model "
        "has learned next to nothing."
    }


def _chance(found: Predictions) -> dict[str, str]:
    kappa, deviation = agreement(found.labels, found.values, len(found.task.labels))
    if len(found) < FEWEST_TO_TEST or kappa >= CHANCE_REACHES * deviation:
        return {}
    return {
        CHANCE: f"predictions on {found.where} agree with the labels no more than by chance (Cohen's kappa "
        f"{kappa:.3f}, and up to {CHANCE_REACHES * deviation:.3f} is chance with {len(found):,} examples): nothing "
        "that was learned shows."
    }


def _never(found: Predictions) -> dict[str, str]:
    counts = np.bincount(found.labels, minlength=len(found.task.labels))
    missed = [i for i, count in enumerate(counts) if count >= FEWEST and not (found.values == i).any()]
    if not missed:
        return {}
    names = [f"{counts[i]:,} are '{found.task.labels[i]}'" for i in missed[:LISTED]]
    names += [f"others of {len(missed) - LISTED} classes more"] if len(missed) > LISTED else []
    return {
        NEVER: f"of the labels on {found.where} {join_words(names)}, and no prediction is: the model has not learned "
        "to find them."
    }


def agreement(labels: NDArray, predicted: NDArray, classes: int) -> tuple[float, float]:
    """Return Cohen's kappa, and its standard deviation where predictions have nothing to do with the labels.

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


def _judge_numbers(found: Predictions, config: TrainConfig, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    labels, advice = found.labels.astype(np.float64), _advice(config, records, found)
    spread, wanted = float(found.values.std()), float(labels.std())
    if spread < FLAT * wanted:
        return {
            CONSTANT: f"Warning: all {len(found):,} predictions on {found.where} are near {found.values.mean():.4g} "
            f"(standard deviation {spread:.2g}, that of the labels is {wanted:.2g}): the model gives one number for "
            f"every text. {advice}"
        }
    warnings = {}
    correlation = float(np.corrcoef(labels, found.values)[0, 1])
    chance = CHANCE_REACHES / math.sqrt(len(found) - 1) if len(found) >= FEWEST_TO_TEST else 0.0
    if correlation <= chance:
        warnings[UNCORRELATED] = (
            f"Warning: predictions on {found.where} and labels have the correlation {correlation:.3f}, and up to "
            f"{chance:.3f} is chance with {len(found):,} examples: nothing that was learned shows. {advice}"
        )
    error = float(np.mean((found.values - labels) ** 2))
    if error >= wanted**2:
        warnings[MEAN] = (
            f"Warning: the mean squared error on {found.where} is {error:.4g}, where the mean of the labels for every "
            f"text has {wanted**2:.4g}: as numbers the predictions are worth nothing. {advice}"
        )
    return warnings


def _still(found: Predictions, records: Sequence[Mapping[str, Any]], *, is_learned: bool) -> str:
    """Say that the metric has not moved, where that is so and means something."""
    name = found.task.main_metric
    evaluations = [record for record in records if f"eval_{name}" in record]
    values = [record[f"eval_{name}"] for record in evaluations]
    if len(values) < EVALUATIONS:
        return ""
    noise = standard_error(name, values[0], len(found))
    losses = [record["eval_loss"] for record in evaluations]
    if max(values) - min(values) > noise or (is_learned and max(losses) - min(losses) > STILL_LOSS * losses[0]):
        return ""
    between = (
        f"stayed at {values[0]:.4f}"
        if min(values) == max(values)
        else (f"stayed between {min(values):.4f} and {max(values):.4f}")
    )
    return (
        f"{_word(name)} has not moved: over {len(values)} evaluations it {between}, less than the {noise:.4f} that is "
        f"one standard error on {len(found):,} examples."
    )


def _advice(config: TrainConfig, records: Sequence[Mapping[str, Any]], found: Predictions) -> str:
    losses = [record["loss"] for record in records if "loss" in record]
    if len(losses) > 1 and losses[-1] > RISEN * losses[0]:
        return f"The training loss has risen from {losses[0]:.3g} to {losses[-1]:.3g}: lower {_rates(config)}."
    ways = [f"Raise {_head_rate(config)} or {_length(config)}"]
    if getattr(config, "head_start", None) == "random":
        ways.append("start with --head-start probe")
    if _is_unequal(found) and config.class_weights is None:
        ways.append("give --class-weights balanced, for the classes are unequal")
    return f"{', '.join(ways[:-1])}{', or ' if ways[1:] else ''}{ways[-1]}."


def _is_unequal(found: Predictions) -> bool:
    if found.task.kind != CLASSIFICATION:
        return False
    counts = np.bincount(found.labels, minlength=len(found.task.labels))
    return bool(counts.max() >= UNEQUAL * max(1, counts.min()))


def _length(config: TrainConfig) -> str:
    name = "epochs" if config.max_steps is None else "max_steps"
    value = getattr(config, name)
    now = "now what the number of examples asks for" if value is None else f"now {_value(value)}"
    return f"{option_name(name)} ({now})"


def _head_rate(config: TrainConfig) -> str:
    return f"--head-lr (now {_value(config.head_lr if config.head_lr is not None else config.lr)})"


def _rates(config: TrainConfig) -> str:
    return join_words([f"--lr (now {_value(config.lr)})", _head_rate(config)])


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _word(metric: str) -> str:
    return {"f1_macro": "macro F1"}.get(metric, metric.replace("_", " "))
