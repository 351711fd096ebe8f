"""`RunFolder`: the files of one run. Each file appears whole or not at all."""

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ConfigDict
from typing_extensions import NotRequired, TypedDict

from qvtune.errors import RunError
from qvtune.files import STAGING, missing_target, remove_leftovers, writing
from qvtune.stored import read_stored
from qvtune.training.checkpoint import Checkpoints
from qvtune.training.config import NOT_IN_FINGERPRINT, PATHS, TrainConfig, make_config

LOCK = ".lock"
# The folder of the search for the run's rates; the search comes before the run.
SUGGESTION = "suggestion"
# What to do if files of a run are damaged.
AGAIN = "Put it back from a copy, or train again in another --out."


class StoredTask(TypedDict):
    """A task as `plan.json` stores it; `settings` belong to its kind of task alone."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    name: str
    kind: str
    labels: list[str]
    metrics: str
    main_metric: str
    text_columns: list[str]
    label_column: str
    settings: NotRequired[dict[str, Any]]


class StoredPlan(TypedDict):
    """What readers of `plan.json` count on; files of earlier versions may lack what is not required."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    model: str
    task: StoredTask
    files: dict[str, str]
    learning_rates: dict[str, float]
    parameters_by_role: dict[str, int]
    parameters_head: int
    parameters_trainable: int
    parameters_total: int
    attention: dict[str, Any]
    notes: NotRequired[list[str]]
    head_start: NotRequired[dict[str, Any] | None]
    epochs: NotRequired[float]


class StoredCheckpoint(TypedDict):
    """Which checkpoint a run ended with."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    step: int
    chosen: str
    chosen_by: str | None
    chosen_on: str | None


class StoredResult(TypedDict):
    """What readers of `result.json` count on; files of earlier versions may lack what is not required."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    task: str
    metrics: dict[str, float]
    main_metric: str
    checkpoint: StoredCheckpoint
    reported_on: list[str]
    steps: int
    seconds: float
    train_examples: int
    evaluation_examples: dict[str, int]
    train_samples_per_second: float | None
    peak_memory_bytes: int
    trainable_parameters: dict[str, int]
    total_parameters: int
    head_start: NotRequired[dict[str, Any] | None]
    hardware: NotRequired[dict[str, Any]]
    task_settings: NotRequired[dict[str, Any]]
    warnings: NotRequired[list[str]]
    learned: NotRequired[bool | None]
    classes: NotRequired[list[dict[str, Any]] | None]
    confusion: NotRequired[list[list[int]] | None]


@dataclass(frozen=True)
class RunFolder:
    """Names of a run's files, and reading and writing them."""

    path: Path

    config = property(lambda self: self.path / "config.yaml")
    plan = property(lambda self: self.path / "plan.json")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    result = property(lambda self: self.path / "result.json")
    mistakes = property(lambda self: self.path / "mistakes.jsonl")
    environment = property(lambda self: self.path / "environment.json")
    adapter = property(lambda self: self.path / "adapter")
    model = property(lambda self: self.path / "model")
    checkpoints = property(lambda self: self.path / "checkpoints")
    predictions = property(lambda self: self.path / "predictions")
    curves = property(lambda self: self.path / "curves.png")
    report = property(lambda self: self.path / "report.html")

    @property
    def is_run(self) -> bool:
        """Whether a run was started here."""
        return self.config.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run here has finished."""
        return self.result.is_file()

    def read_config(self) -> TrainConfig:
        """Return the run's configuration.

        Raises:
            RunError: if there is no run here.
        """
        if not self.is_run:
            raise RunError(f"{self.path}: is no run folder; it has no config.yaml. Give the --out of a 'qvtune train'.")
        return make_config({}, self.config)

    def read_finished(self) -> TrainConfig:
        """Return the configuration of a finished run.

        Raises:
            RunError: if there is no run here, or it has not finished.
        """
        config = self.read_config()
        if not self.is_finished:
            raise RunError(
                f"{self.path}: the run has not finished. Give 'qvtune train --resume {self.path}' to end it first."
            )
        return config

    def read_plan(self) -> dict[str, Any]:
        """Return what the run set out to do.

        Raises:
            RunError: if the file is missing or damaged.
        """
        return read_stored(self.plan, StoredPlan, AGAIN)

    def read_result(self) -> dict[str, Any]:
        """Return the result of the run.

        Raises:
            RunError: if the file is missing or damaged.
        """
        return read_stored(self.result, StoredResult, AGAIN)

    def read_environment(self) -> dict[str, Any]:
        """Return the versions and hardware that the run used.

        Raises:
            RunError: if the file is missing or damaged.
        """
        return read_stored(self.environment, dict[str, Any], AGAIN)

    def claim(self, config: TrainConfig) -> None:
        """Check that a run with `config` may write here. Nothing is changed.

        Raises:
            RunError: if nothing can be written here, or if the folder holds something else, or a run with other options
                or other data; the text names them.
        """
        if dangling := missing_target(self.path):
            raise RunError(f"{self.path}: {dangling}. Make that folder, or give another --out.")
        if not self.path.exists():
            parent = next(folder for folder in self.path.absolute().parents if folder.exists())
            if not parent.is_dir():
                raise RunError(f"{self.path}: {parent} is a file, so no folder can be made in it. Give another --out.")
            if not os.access(parent, os.W_OK):
                raise RunError(f"{self.path}: nothing may be written in {parent}. Give another --out.")
            return
        check_free(self.path, self.config.name, "run", beside=(SUGGESTION,))
        if self.is_run:
            self._compare(config)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training here; the system releases the lock when the process ends.

        Raises:
            RunError: if another process trains here.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise RunError(
                    f"{self.path}: another process is training here. Wait for it, or give another --out."
                ) from None
        try:
            yield
        finally:
            lock.release()

    def remove_unfinished(self) -> None:
        """Remove what this run was writing when it was killed. Only the process that trains here may call this."""
        for folder in (*self.path.glob(f"{STAGING}*"), *self.checkpoints.glob(f"{STAGING}*")):
            shutil.rmtree(folder)
        for written in (self.config, self.plan, self.environment, self.metrics, self.mistakes, self.result):
            remove_leftovers(written)

    def compare_task(self, task: dict[str, Any]) -> None:
        """Check that the task is the one that the run's checkpoint was trained on: the same classes by the same ids.

        Its name may differ, since that changes when a file is moved.

        Raises:
            RunError: if it is a different task.
        """
        if not self.plan.is_file() or not Checkpoints(self.checkpoints).all():
            return
        before = self.read_plan()["task"]
        now = json.loads(json.dumps(task))  # makes tuples lists
        differing = [
            f"{key} ({_listed(before.get(key))} there, {_listed(now[key])} here)"
            for key in now
            if key != "name" and before.get(key) != now[key]
        ]
        if differing:
            raise RunError(
                f"{self.path}: its checkpoint is of a run with other {', '.join(differing)}. Give another --out."
            )

    def _compare(self, config: TrainConfig) -> None:
        before = self.read_config()
        if before.fingerprint() == config.fingerprint():
            self._compare_files(config)
            return
        old, new = before.model_dump(mode="json"), config.model_dump(mode="json")
        differing = [
            f"{key} ({_shown(old[key])} there, {_shown(new[key])} here)"
            for key in new
            if old[key] != new[key] and (key not in NOT_IN_FINGERPRINT or (key in PATHS and _other_name(old, new, key)))
        ]
        raise RunError(f"{self.path}: holds another run, with other {', '.join(differing)}. Give another --out.")

    def _compare_files(self, config: TrainConfig) -> None:
        if not self.plan.is_file():
            return  # killed before its first step
        from qvtune.tasks.files import changed_file, file_digests  # slow to import, and not needed to read a run

        changed = changed_file(self.read_plan()["files"], file_digests(config))
        if changed is not None:
            raise RunError(
                f"{self.path}: holds a run on other data: {changed} has changed since. Give another --out, or put the "
                "file back."
            )


def check_free(path: Path, record: str, what: str | None = None, beside: Collection[str] = ()) -> None:
    """Check that a folder may be written into: it is new or empty, or holds the file that marks its kind.

    The folder is listed before the check for that file, since another process may be writing the file at this moment.

    Args:
        path: the folder.
        record: name of the file.
        what: what an error says is missing in a folder that holds something else; `record` when None.
        beside: names that may be in the folder before that file is.

    Raises:
        RunError: if the folder holds something else, or is a file.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file. Give --out a folder.")
    found = [file.name for file in path.iterdir()] if path.is_dir() else []
    others = [name for name in found if name not in (LOCK, *beside) and not name.startswith(f".{record}.")]
    if others and not (path / record).is_file():
        raise RunError(f"{path}: is not empty and holds no {what or record}. Give --out an empty or new folder.")


def _other_name(old: dict[str, Any], new: dict[str, Any], key: str) -> bool:
    return Path(old[key] or "").name != Path(new[key] or "").name


def _shown(value: Any) -> str:
    return "not given" if value is None else _listed(value)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
