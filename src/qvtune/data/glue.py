"""The nine GLUE tasks in the benchmark's own TSV folders: the layout of each, and its sets.

GLUE's TSV has no quoting: a quotation mark is a character like any other.
"""

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from qvtune.data.columns import as_number
from qvtune.data.records import text_dataset
from qvtune.data.tables import read_text
from qvtune.errors import DataError, nearest

PREFIX = "glue/"
ENTAILMENT = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    """The benchmark's layout of a task.

    `texts` and `label` are column names of the TSV files (for CoLA, which has no header in train and dev, column
    numbers); `labels` are the classes by id; `files` spells the labels in the TSV files and submissions, if that
    differs; `rows` are the published numbers of rows of the train file, each dev file and each test file.
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
        """The labels in the spelling of the benchmark's files."""
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

# The hub's names for text columns, if they differ from the TSV files.
HUB_COLUMNS = {"cola": ("sentence",), "mrpc": ("sentence1", "sentence2"), "mnli": ("premise", "hypothesis")}

# The fields of CoLA's train and dev files, which have no header.
COLA_COLUMNS = ("source", "label", "mark", "sentence")

# How many rows with a wrong number of fields a file may have: QQP's published training file has a few.
MALFORMED_SHARE = 0.001


def glue_name(data: str) -> str | None:
    """Return the GLUE task that a `data` option names ("rte" for "glue/rte"), or None."""
    return data.removeprefix(PREFIX) if data.startswith(PREFIX) else None


def glue_task(name: str) -> GlueTask:
    """Return a GLUE task by name.

    Raises:
        DataError: for a name that is not one of the nine.
    """
    if name not in GLUE:
        raise DataError(f"unknown GLUE task '{name}'.{nearest(name, GLUE)} The tasks are {', '.join(GLUE)}.")
    return GLUE[name]


def load_sets(name: str, folder: Path) -> tuple[dict[str, Dataset], list[str]]:
    """Load the training and development sets of a task from the benchmark's folders, such as `folder/RTE/train.tsv`.

    Returns:
        By split, "train" first: `text`, `text_pair` if there are two texts, and `label`, an id in the order of the
        task's `labels` or a float. Then a sentence for every file with rows that were left out.

    Raises:
        DataError: if a file is missing or a row is malformed.
    """
    glue = glue_task(name)
    root = task_folder(glue, folder)
    sets, notes = {}, []
    for split, file in zip(("train", *glue.splits), ("train.tsv", *glue.dev), strict=True):
        sets[split], more = _read_labelled(glue, root / file)
        notes += more
    return sets, notes


def load_tests(name: str, folder: Path) -> list[tuple[str, list[str], Dataset]]:
    """Load the unlabelled test sets: for each, the name of its submission file, the indices of its rows, and the texts.

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


def _read_labelled(glue: GlueTask, path: Path) -> tuple[Dataset, list[str]]:
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
    """Return the header, the rows by line number, and notes about malformed rows that were left out.

    For a file without a header, `fields` is its number of fields, and an empty list is returned as its header.
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
