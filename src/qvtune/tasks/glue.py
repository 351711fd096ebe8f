"""GLUE's tasks as qvtune's tasks, with their examples, and predictions in the benchmark's submission format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from numpy.typing import NDArray

from qvtune.data.glue import HUB_COLUMNS, PREFIX, glue_task, load_sets
from qvtune.data.records import text_dataset
from qvtune.errors import DataError
from qvtune.tasks.classification import Classification
from qvtune.tasks.examples import TextData
from qvtune.tasks.regression import Regression
from qvtune.tasks.task import Task


def make_task(name: str) -> Task:
    """Return a GLUE task as qvtune's own `Task`.

    Raises:
        DataError: for a name that is not one of the nine.
    """
    glue = glue_task(name)
    kind: type[Task] = Classification if glue.labels else Regression
    texts = ("text", "text_pair")[: len(glue.texts)]
    return kind(f"{PREFIX}{name}", glue.labels, glue.metrics, glue.main_metric, texts, "label")


def load_tsv(name: str, folder: Path) -> TextData:
    """Load the training and development sets of a task from the benchmark's folders, such as `folder/RTE/train.tsv`.

    Raises:
        DataError: if a file is missing or a row is malformed.
    """
    task = make_task(name)
    sets, notes = load_sets(name, folder)
    return TextData(task, sets.pop("train"), sets, tuple(notes))


def load_splits(name: str, splits: DatasetDict) -> TextData:
    """Return a GLUE task from its splits on the hub.

    Raises:
        DataError: if a split or a column is missing.
    """
    task = make_task(name)
    layout = glue_task(name)
    columns = [str(c) for c in HUB_COLUMNS.get(name, layout.texts)]
    sets = {}
    for split in ("train", *layout.splits):
        if split not in splits:
            raise DataError(f"{task.name}: has no split '{split}', only {', '.join(splits)}.")
        missing = [c for c in (*columns, "label") if c not in splits[split].column_names]
        if missing:
            raise DataError(f"{task.name}, {split}: has no column '{missing[0]}', only {splits[split].column_names}.")
        sets[split] = text_dataset([splits[split][c] for c in columns], splits[split]["label"])
    return TextData(task, sets.pop("train"), sets)


def format_submission(name: str, indices: Sequence[str], scores: NDArray[Any]) -> str:
    """Return predictions in the format of the benchmark's server: a header, then index and prediction.

    STS-B's scores are clipped to [0, 5] and written with three decimals.

    Args:
        name: task.
        indices: the test set's own index column.
        scores: (rows, classes) logits or (rows, 1) predictions.
    """
    glue = glue_task(name)
    if glue.labels:
        predictions = [glue.spelling[i] for i in scores.argmax(axis=-1)]
    else:
        predictions = [f"{score:.3f}" for score in np.clip(scores.reshape(-1), 0.0, 5.0)]
    lines = ["index\tprediction", *(f"{i}\t{p}" for i, p in zip(indices, predictions, strict=True))]
    return "\n".join(lines) + "\n"
