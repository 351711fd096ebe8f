"""Warnings, from predictions and log, that a run has learned nothing or ended worse than it started."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvtune.amounts import join_words
from qvtune.options import option_name
from qvtune.tasks.judging import FEWEST, NOTHING_LEARNED, ONE_CLASS
from qvtune.tasks.metrics import standard_error
from qvtune.tasks.task import Task
from qvtune.training.config import TrainConfig

# Subjects of warnings beside those in `judging.py`.
STILL, BEHIND = "still", "behind_start"

# A metric that does not move means something from this many evaluations on,
EVALUATIONS = 3
# and, if the model has learned, only if the validation loss does not move either: by less than this fraction of its
# size.
STILL_LOSS = 0.01
# A loss has risen if it ends above this many times its first value.
RISEN = 1.05


class Predictions:
    """A model's outputs for labelled examples, and the set that they are from.

    Args:
        task: the run's.
        scores: the model's outputs in the task's form.
        labels: labels of the same examples.
        where: the set in words, such as "the validation set".
    """

    def __init__(self, task: Task, scores: NDArray[Any], labels: NDArray[Any], where: str) -> None:
        self.task, self.labels, self.where = task, labels, where
        values = task.predicted(scores)
        self.values = values.astype(np.float64) if np.issubdtype(values.dtype, np.floating) else values

    def __len__(self) -> int:
        return len(self.labels)


def judge_predictions(
    found: Predictions, config: TrainConfig, records: Sequence[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """Return the warnings about predictions, by subject.

    Args:
        found: the predictions.
        config: the run's; the warnings name its options.
        records: its log, as in `metrics.jsonl`: the advice is lower rates if the loss has risen.
    """
    if len(found) < FEWEST or found.task.are_equal(found.labels):
        return {}
    warnings = found.task.judge(found.values, found.labels, found.where)
    return {name: f"Warning: {text} {_advice(config, records, found)}" for name, text in warnings.items()}


def judge_run(
    found: Predictions,
    config: TrainConfig,
    records: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    head_start: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the warnings at the end of a run, by subject.

    Args:
        found: predictions of the final checkpoint, on the sets that the run reports.
        config: the run's.
        records: its log.
        metrics: what the run reports.
        head_start: the head before the first step: `metrics` of the probe under the names of `metrics`.
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
            f"nothing. Lower {_rates(config, found)}, or change {_length(config)}."
        )
    return warnings


def early_warning(
    found: Predictions, config: TrainConfig, records: Sequence[Mapping[str, Any]], told: Collection[str]
) -> dict[str, str]:
    """Return the warning of an evaluation before the last that all predictions are one class; it comes once in a run.

    Args:
        found: the predictions.
        config: the run's.
        records: its log up to the evaluation.
        told: subjects of earlier warnings.
    """
    warnings = judge_predictions(found, config, records) if ONE_CLASS not in told else {}
    return {ONE_CLASS: warnings[ONE_CLASS]} if ONE_CLASS in warnings else {}


def _still(found: Predictions, records: Sequence[Mapping[str, Any]], *, is_learned: bool) -> str:
    """Say that the metric has not moved, if that is true and means something."""
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
        return f"The training loss has risen from {losses[0]:.3g} to {losses[-1]:.3g}: lower {_rates(config, found)}."
    raised = _head_rate(config) if found.task.has_new_head else f"--lr (now {_value(config.lr)})"
    ways = [f"Raise {raised} or {_length(config)}"]
    if getattr(config, "head_start", None) == "random" and found.task.has_new_head:
        ways.append("start with --head-start probe")
    if found.task.is_unequal(found.labels) and config.class_weights is None:
        ways.append("give --class-weights balanced, for the classes are unequal")
    return f"{', '.join(ways[:-1])}{', or ' if ways[1:] else ''}{ways[-1]}."


def _length(config: TrainConfig) -> str:
    name = "epochs" if config.max_steps is None else "max_steps"
    value = getattr(config, name)
    now = "now what the number of examples asks for" if value is None else f"now {_value(value)}"
    return f"{option_name(name)} ({now})"


def _head_rate(config: TrainConfig) -> str:
    return f"--head-lr (now {_value(config.head_lr if config.head_lr is not None else config.lr)})"


def _rates(config: TrainConfig, found: Predictions) -> str:
    heads = [_head_rate(config)] if found.task.has_new_head else []
    return join_words([f"--lr (now {_value(config.lr)})", *heads])


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _word(metric: str) -> str:
    return {"f1_macro": "macro F1"}.get(metric, metric.replace("_", " "))
