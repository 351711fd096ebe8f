"""The nine GLUE tasks: from the benchmark's TSV folders, and predictions in the benchmark's submission format.

GLUE's TSV has no quoting: a quotation mark is a character like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from qvtune.data.columns import as_number
from qvtune.data.records import text_dataset
from qvtune.data.tables import read_text
from qvtune.data.task import CLASSIFICATION, REGRESSION, Task, TextData
from qvtune.errors import DataError, nearest

PREFIX = "glue/"
ENTAILMENT = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    """How the benchmark lays a task out.

    `texts` and `label` are column names of the TSV files (for CoLA, which has no header in train and dev, column
    numbers); `labels` are the classes by id; `files` spells the labels in the TSV files and submissions where that
    differs; `rows` are the published numbers of rows of train, of each dev and of each test file.
    """

    folder: str
    texts: tuple[str | int, ...]
    label: str | int
    labels: tuple[str, ...]
    metrics: str
    main_metric: str
    rows: tuple[int, tuple[int, ...], tuple[int, ...]]
    spelled: tuple[str, ...] = ()
    dev: tuple[str, ...] = ("dev.tsv",)
    test: tuple[str, ...] = ("test.tsv",)
    splits: tuple[str, ...] = ("validation",)
    submissions: tuple[str, ...] = ()
    test_texts: tuple[str, ...] = ()
    header: bool = True

    @property
    def spelling(self) -> tuple[str, ...]:
        """The labels as the benchmark's files spell them."""
        return self.spelled or self.labels

    @property
    def submission_files(self) -> tuple[str, ...]:
        """Names of the files that a submission holds for this task."""
        return self.submissions or (f"{self.folder}.tsv",)


_MNLI_FILES = {
    "dev": ("dev_matched.tsv", "dev_mismatched.tsv"),
    "test": ("test_matched.tsv", "test_mismatched.tsv"),
    "splits": ("validation_matched", "validation_mismatched"),
    "submissions": ("MNLI-m.tsv", "MNLI-mm.tsv"),
}
_TWO = ("sentence1", "sentence2")
_BINARY = ("0", "1")
GLUE: dict[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA", (3,), 1, ("unacceptable", "acceptable"), "matthews", "matthews_correlation",
        (8551, (1043,), (1063,)), _BINARY, header=False, test_texts=("sentence",),
    ),
    "sst2": GlueTask(
        "SST-2", ("sentence",), "label", ("negative", "positive"), "accuracy", "accuracy",
        (67349, (872,), (1821,)), _BINARY,
    ),
    "mrpc": GlueTask(
        "MRPC", ("#1 String", "#2 String"), "Quality", ("not_equivalent", "equivalent"), "accuracy_f1", "accuracy",
        (3668, (408,), (1725,)), _BINARY,
    ),
    "stsb": GlueTask("STS-B", _TWO, "score", (), "correlation", "pearson", (5749, (1500,), (1379,))),
    "qqp": GlueTask(
        "QQP", ("question1", "question2"), "is_duplicate", ("not_duplicate", "duplicate"), "accuracy_f1", "accuracy",
        (363846, (40430,), (390965,)), _BINARY,
    ),
    "mnli": GlueTask(
        "MNLI", _TWO, "gold_label", ("entailment", "neutral", "contradiction"), "accuracy", "accuracy",
        (392702, (9815, 9832), (9796, 9847)), **_MNLI_FILES,  # type: ignore[arg-type]
    ),
    "qnli": GlueTask(
        "QNLI", ("question", "sentence"), "label", ENTAILMENT, "accuracy", "accuracy", (104743, (5463,), (5463,))
    ),
    "rte": GlueTask("RTE", _TWO, "label", ENTAILMENT, "accuracy", "accuracy", (2490, (277,), (3000,))),
    "wnli": GlueTask(
        "WNLI", _TWO, "label", ("not_entailment", "entailment"), "accuracy", "accuracy", (635, (71,), (146,)), _BINARY
    ),
}  # fmt: skip

# The fields of CoLA's train and dev files, which have no header.
COLA_COLUMNS = ("source", "label", "mark", "sentence")

# Rows with a wrong number of fields that a file may hold: QQP's published training file has a few.
MALFORMED_SHARE = 0.001


def glue_name(data: str) -> str | None:
    """Return the GLUE task that a `data` option names ("rte" for "glue/rte"), or None."""
    return data.removeprefix(PREFIX) if data.startswith(PREFIX) else None


def glue_task(name: str) -> GlueTask:
    """Return a GLUE task by name.

    Raises:
        DataError: for a name that is none of the nine.
    """
    if name not in GLUE:
        raise DataError(f"unknown GLUE task '{name}'.{nearest(name, GLUE)} The tasks are {', '.join(GLUE)}.")
    return GLUE[name]


def make_task(name: str) -> Task:
    """Return a GLUE task as qvtune's own `Task`."""
    glue = glue_task(name)
    return Task(
        name=f"glue/{name}",
        kind=CLASSIFICATION if glue.labels else REGRESSION,
        labels=glue.labels,
        metrics=glue.metrics,
        main_metric=glue.main_metric,
        text_columns=("text", "text_pair")[: len(glue.texts)],
        label_column="label",
    )


def load_tsv(name: str, folder: Path) -> TextData:
    """Load the training and development sets of a task from the benchmark's folders, as in `folder/RTE/train.tsv`.

    Raises:
        DataError: if a file is missing or a row is malformed.
    """
    glue, task = glue_task(name), make_task(name)
    root = task_folder(glue, folder)
    train, notes = _read_labelled(glue, task, root / "train.tsv")
    evaluation = {}
    for split, file in zip(glue.splits, glue.dev, strict=True):
        evaluation[split], more = _read_labelled(glue, task, root / file)
        notes += more
    return TextData(task, train, evaluation, tuple(notes))


def load_tests(name: str, folder: Path) -> list[tuple[str, list[str], Dataset]]:
    """Load the unlabelled test sets: for each, the name of its submission file, the rows' indices, the texts.

    Raises:
        DataError: if a file is missing or any row is malformed, since a submission needs all.
    """
    glue = glue_task(name)
    root = task_folder(glue, folder)
    tests = []
    for file, submission in zip(glue.test, glue.submission_files, strict=True):
        header, by_line, notes = _read_rows(root / file)
        if notes:
            raise DataError(f"{root}: {notes[0]} A submission needs every row; fetch the folder again.")
        rows = list(by_line.values())
        names = glue.test_texts or glue.texts
        columns = [_position(root / file, header, column) for column in names]
        # QQP's header names the index "id".
        index = header.index("index") if "index" in header else 0
        texts = [[row[column] for row in rows] for column in columns]
        tests.append((submission, [row[index] for row in rows], text_dataset(texts)))
    return tests


def task_folder(glue: GlueTask, folder: Path) -> Path:
    """Return the folder of a task below a GLUE folder.

    Raises:
        DataError: if it is not there.
    """
    root = folder / glue.folder
    if not root.is_dir():
        raise DataError(
            f"{folder}: has no folder '{glue.folder}'. Give the folder that holds it with --glue-dir, or fetch it: "
            f"qvtune download --task {next(n for n, g in GLUE.items() if g is glue)} --glue-dir {folder}"
        )
    return root


def format_submission(name: str, indices: Sequence[str], scores: NDArray) -> str:
    """Return predictions as the benchmark's server wants them: a header, then index and prediction.

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


def _read_labelled(glue: GlueTask, task: Task, path: Path) -> tuple[Dataset, list[str]]:
    header, rows, notes = _read_rows(path, None if glue.header else len(COLA_COLUMNS))
    texts = [_position(path, header, column) for column in glue.texts]
    label = _position(path, header, glue.label)
    labels: list[int | float] = []
    for number, row in rows.items():
        value = row[label]
        if not glue.labels:
            labels.append(as_number(value, f"{path}, line {number}"))
        elif value in glue.spelling:
            labels.append(glue.spelling.index(value))
        else:
            raise DataError(f"{path}, line {number}: label '{value}' is none of {', '.join(glue.spelling)}.")
    return text_dataset([[row[column] for row in rows.values()] for column in texts], labels), notes


def _read_rows(path: Path, fields: int | None = None) -> tuple[list[str], dict[int, list[str]], list[str]]:
    """Return the header, the rows by line number, and a note where malformed rows were left out.

    A file without a header has this number of `fields`, and an empty list is returned for its header.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. The benchmark's folder holds it; fetch it with: qvtune download")
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    rows = {number: line.split("\t") for number, line in enumerate(lines, 1) if line}
    if not rows:
        raise DataError(f"{path}: the file is empty.")
    names = rows.pop(next(iter(rows))) if fields is None else []
    width = fields or len(names)
    good = {number: row for number, row in rows.items() if len(row) >= width}
    left_out = len(rows) - len(good)
    if left_out > max(1, MALFORMED_SHARE * len(rows)):
        number = next(n for n in rows if n not in good)
        raise DataError(f"{path}, line {number}: has fewer than {width} fields, and so have {left_out - 1} more rows.")
    return (
        names,
        good,
        [f"{path.name}: left out {left_out} of {len(rows)} rows with missing fields."] if left_out else [],
    )


def _position(path: Path, header: list[str], column: str | int) -> int:
    if isinstance(column, int):
        return column
    if column not in header:
        raise DataError(f"{path}: has no column '{column}'; its header is {', '.join(header)}.")
    return header.index(column)
