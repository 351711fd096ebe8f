"""`TASKS`: every kind of task. A new one is a file beside this one, and its line here."""

from collections.abc import Mapping
from typing import Any, TypeVar

from qvtune.errors import RunError, nearest
from qvtune.tasks.causal.completion import Completion
from qvtune.tasks.classification import Classification
from qvtune.tasks.multilabel import Multilabel
from qvtune.tasks.regression import Regression
from qvtune.tasks.tagging import Tagging
from qvtune.tasks.task import Task

T = TypeVar("T", bound=type[Task])

TASKS: dict[str, type[Task]] = {}


def register(kind: T) -> T:
    """Register a kind of task, for `--task-type` and for reading its runs; use it as a decorator.

    Raises:
        ValueError: if another class has the same name.
    """
    if TASKS.setdefault(kind.kind, kind) is not kind:
        raise ValueError(
            f"the kind of task '{kind.kind}' is {TASKS[kind.kind].__qualname__} already. Name it otherwise."
        )
    return kind


def task_from_dict(stored: Mapping[str, Any]) -> Task:
    """Return the task that `Task.to_dict` wrote.

    Raises:
        RunError: if its kind of task is not known here.
    """
    kind = str(stored["kind"])
    if kind not in TASKS:
        raise RunError(
            f"the run's task is of the kind '{kind}', and known are {', '.join(TASKS)}.{nearest(kind, TASKS)} Import "
            "what registers it first."
        )
    return TASKS[kind].from_dict(stored)


register(Classification)
register(Regression)
register(Multilabel)
register(Tagging)
register(Completion)
