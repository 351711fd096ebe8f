"""`Outcome`: the outcome of one run of a store, read from its files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from pydantic import ConfigDict
from typing_extensions import NotRequired, TypedDict

from qvtune.stored import read_stored
from qvtune.training.folder import RunFolder

FINISHED = "finished"
PENDING = "pending"
FAILED = "failed"
DIVERGED = "diverged"
# Stopped early by successive halving.
STOPPED = "stopped"

# Marks runs that learned nothing in tables and pictures.
UNLEARNED = "∅"


class StoredEnd(TypedDict):
    """What is known of a run that ended without a result."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    status: Literal["failed", "diverged", "stopped"]
    reason: str | None
    metrics: NotRequired[dict[str, float]]
    seconds: NotRequired[float]
    steps: NotRequired[int]


@dataclass(frozen=True)
class Outcome:
    """A run of a store.

    Attributes:
        name: hash of its configuration, 16 hexadecimal digits.
        labels: what distinguishes it from the other runs, by the name of the axis, such as {"lr": 0.0001, "seed": 0}.
        folder: its run folder; empty or missing while the status is "pending".
        status: "finished", "failed", "diverged", "stopped" or "pending".
        reason: why it did not finish, or None.
        result: contents of `result.json`, or what is known of an unfinished run: "seconds" and, for a stopped run,
            "steps", "main_metric" and "metrics".
    """

    name: str
    labels: dict[str, Any]
    folder: RunFolder
    status: str
    reason: str | None
    result: dict[str, Any]

    @property
    def metric(self) -> float | None:
        """The task's main metric; None if there is none or it is not defined."""
        return self.result.get("metrics", {}).get(self.result.get("main_metric"))

    @property
    def learned(self) -> bool | None:
        """Whether the predictions show that a finished run learned anything; None if that was not checked."""
        return self.result.get("learned")

    def records(self) -> list[dict[str, Any]]:
        """Return the lines of `metrics.jsonl`: a dictionary per logged step."""
        if not self.folder.metrics.is_file():
            return []
        return [json.loads(line) for line in self.folder.metrics.read_text(encoding="utf-8").splitlines()]


def read_outcome(folder: RunFolder, labels: dict[str, Any]) -> Outcome:
    """Read the outcome of the run in `folder`."""
    name, end = folder.path.name, end_file(folder)
    if folder.is_finished:
        return Outcome(name, labels, folder, FINISHED, None, folder.read_result())
    if end.is_file():
        known = read_stored(end, StoredEnd, "Remove it to train the run again.")
        return Outcome(name, labels, folder, known.pop("status"), known.pop("reason"), known)
    return Outcome(name, labels, folder, PENDING, None, {})


def end_file(folder: RunFolder) -> Any:
    """Return the file beside a run's folder that says why the run ended without a result."""
    return folder.path.with_name(f"{folder.path.name}.end.json")


def results_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return a row per run.

    Columns: `run`; one per label, in the order of the runs' labels; `status`; `metric` and `metric_name`; `learned`,
        which is False if the predictions show that nothing was learned; `seconds` of training; `samples_per_second`;
    `trained_parameters`, and of these `adapter_parameters` and `head_parameters`; `saved_bytes`; `peak_memory_bytes`;
    `steps`; `best_step`; `reason`. Unknown values are empty.
    """
    names = list(dict.fromkeys(label for outcome in outcomes for label in outcome.labels))
    return pd.DataFrame([_row(outcome, names) for outcome in outcomes])


def _row(outcome: Outcome, names: list[str]) -> dict[str, Any]:
    result = outcome.result
    counts = result.get("trainable_parameters", {})
    total, head = counts.get("total"), counts.get("head")
    return {
        "run": outcome.name,
        **{name: outcome.labels.get(name) for name in names},
        "status": outcome.status,
        "metric": outcome.metric,
        "metric_name": result.get("main_metric"),
        "learned": outcome.learned,
        "seconds": result.get("seconds"),
        "samples_per_second": result.get("train_samples_per_second"),
        "trained_parameters": total,
        "adapter_parameters": None if total is None else total - head,
        "head_parameters": head,
        "saved_bytes": result.get("saved_bytes"),
        "peak_memory_bytes": result.get("peak_memory_bytes"),
        "steps": result.get("steps"),
        "best_step": result.get("checkpoint", {}).get("step"),
        "reason": outcome.reason,
    }
