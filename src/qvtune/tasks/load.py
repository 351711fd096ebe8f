"""`load_data`: load a task with its training and evaluation examples from options."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from qvtune.amounts import count
from qvtune.data import hub, packaged
from qvtune.data.glue import glue_name, glue_task
from qvtune.data.records import Records
from qvtune.data.samples import stratified_sample
from qvtune.data.tables import READERS, Table, data_name, read_table, table_suffix
from qvtune.errors import DataError
from qvtune.tasks import glue
from qvtune.tasks.classification import Classification
from qvtune.tasks.examples import TUNING, TextData
from qvtune.tasks.guess import read_labelled
from qvtune.tasks.options import DataOptions
from qvtune.tasks.remarks import remarks
from qvtune.tasks.table import TASKS
from qvtune.tasks.task import Task

# The part of the training examples that tunes a kind of task which needs it, where no other part was asked for.
LEAST_TUNING = 0.1


def load_data(options: DataOptions, seed: int) -> TextData:
    """Load, check and divide the examples.

    Args:
        options: where the examples are and how to divide them.
        seed: seed of every random choice: the held-out part and the samples.

    Returns:
        The data; with `tune_fraction`, `evaluation` has a split "tuning" drawn from the training examples.

    Raises:
        DataError: if the examples cannot be read or do not make a task.
    """
    loaded = _load(options, seed)
    notes = list(loaded.notes)
    train, evaluation = loaded.train, dict(loaded.evaluation)
    if fraction := options.tune_fraction or (LEAST_TUNING if loaded.task.needs_tuning else 0.0):
        train, evaluation[TUNING] = _hold_out(train, loaded.task, fraction, seed)
        notes.append(f"The checkpoint is chosen on {len(evaluation[TUNING]):,} examples held out of training.")
    train, note = limit(train, loaded.task, options.max_train_samples, seed, "training")
    notes += note
    for split, dataset in evaluation.items():
        evaluation[split], note = limit(dataset, loaded.task, options.max_eval_samples, seed, split)
        notes += note
    return TextData(loaded.task, train, evaluation, (*notes, *remarks(loaded.task, train, evaluation)))


@dataclass(frozen=True)
class Read:
    """Labelled rows, the kind of task that they are for, and sentences about what was guessed."""

    kind: type[Task]
    records: Records
    notes: list[str]


def read_labelled_table(table: Table, options: DataOptions) -> Read:
    """Return the labelled rows of a table, with the columns and the kind of task that the options name."""
    kind, records, note = read_labelled(table, options.text_column, options.label_column, options.task_type)
    return Read(kind, records, [note] if note else [])


def read_alike(table: Table, options: DataOptions, task: Task) -> tuple[Records, str | None]:
    """Return the labelled rows of a table, with the columns of a task where it has them.

    Returns:
        The records, and a sentence about guessed columns, or None.
    """
    texts = task.text_columns if task.text_columns[0] in table.columns else options.text_column
    labels = task.label_columns if task.label_columns[0] in table.columns else options.label_column
    records, note = type(task).read(table, texts, labels)
    if len(records.text_columns) != len(task.text_columns):
        raise DataError(
            f"{table.source}: text is {' and '.join(records.text_columns)}, but the training data has "
            f"{' and '.join(task.text_columns)}. Give both the same columns."
        )
    return records, note


def _load(options: DataOptions, seed: int) -> TextData:
    data = options.data
    name = glue_name(data)
    if name is not None:
        found = load_glue(name, options.glue_dir)
        found.task.configured(options)
        return found
    if data.startswith(packaged.PREFIX):
        return _from_records(data, _packaged_records(data.removeprefix(packaged.PREFIX), options), None, options, seed)
    path = Path(data)
    if path.is_dir() and hub.is_saved_folder(path):
        return _from_records(path.name, *from_splits(options, hub.load_saved(path), data), options, seed)
    # Folders such as "." and ".." have no name to which a suffix could be added.
    if named := next((s for s in READERS if path.name and not path.suffix and path.with_suffix(s).is_file()), None):
        raise DataError(f"{data}: no such file. Did you mean '{path.with_suffix(named)}'?")
    if path.exists() or table_suffix(path) in READERS or data.startswith((".", "/", "~")):
        train = read_labelled_table(read_table(path), options)
        return _from_records(data_name(path), train, None, options, seed)
    return _from_records(data, *from_splits(options, hub.load_hub(data, options.data_config), data), options, seed)


def load_glue(name: str, folder: Path | None) -> TextData:
    """Load a GLUE task from the benchmark's folders, a folder saved by `datasets`, or without a folder the hub.

    Raises:
        DataError: if there is no such task or folder, or it cannot be read.
    """
    glue_task(name)
    if folder is None:
        return glue.load_splits(name, hub.load_hub(hub.GLUE_REPOSITORY, name))
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Fetch GLUE into it with: qvtune download --glue-dir {folder}")
    for saved in (folder, folder / name):
        if hub.is_saved_folder(saved):
            return glue.load_splits(name, hub.load_saved(saved))
    return glue.load_tsv(name, folder)


def from_splits(options: DataOptions, splits: DatasetDict, name: str) -> tuple[Read, Records | None]:
    """Return training and validation records (None if there is no such split, or a file is given)."""
    if "train" not in splits:
        raise DataError(f"{name}: has no split 'train', only {', '.join(splits)}.")
    train = read_labelled_table(hub.split_table(splits["train"], f"{name}, train"), options)
    if options.validation is not None:
        return train, None
    for split in hub.VALIDATION_SPLITS:
        if split in splits and not hub.is_hidden(splits[split], train.records.label_columns[0]):
            note = f"The validation set is the split '{split}'."
            table = hub.split_table(splits[split], f"{name}, {split}")
            validation, _ = train.kind.read(table, options.text_column, options.label_column)
            return replace(train, notes=[*train.notes, note]), validation
    return train, None


def _packaged_records(name: str, options: DataOptions) -> Read:
    path = packaged.reviews_path(name)
    table = read_table(path)
    chosen = [i for i, source in enumerate(table.column("source")) if source == name]
    part = Table(options.data, table.columns, [table.rows[i] for i in chosen], [table.places[i] for i in chosen])
    labels = [packaged.REVIEW_LABELS[label] for label in part.column("label")]
    records = Records(options.data, ("text",), ("label",), (part.column("text"),), labels, part.places)
    return Read(TASKS[options.task_type or Classification.kind], records, [])


def _from_records(name: str, train: Read, validation: Records | None, options: DataOptions, seed: int) -> TextData:
    task, notes = train.kind.from_records(name, train.records).configured(options), train.notes
    if options.task_type is None and (reason := task.explain_guess(train.records.labels, train.records.places)):
        notes = [*notes, reason]
    dataset = task.examples(train.records)
    if options.validation is not None:
        if options.validation.absolute() == Path(options.data).absolute():
            raise DataError(f"{options.validation}: is the training file too. Name another, or leave --validation out.")
        validation, note = read_alike(read_table(options.validation), options, task)
        notes = [*notes, f"{options.validation}: {note}"] if note else notes
    if validation is not None:
        return TextData(task, dataset, {"validation": task.examples(validation)}, tuple(notes))
    dataset, held_out = _hold_out(dataset, task, options.validation_fraction, seed)
    kind = "" if _strata(held_out, task) is None else "stratified, "
    size = count(len(held_out), "example")
    held = f"The validation set is {size} held out of {train.records.source} ({kind}seed {seed})."
    return TextData(task, dataset, {"validation": held_out}, (*notes, held))


def _hold_out(dataset: Dataset, task: Task, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    if len(dataset) < 2:
        raise DataError("there is one training example; at least two are needed to hold one out for validation.")
    size = min(max(1, round(len(dataset) * fraction)), len(dataset) - 1)
    # The training part is drawn, so that a class with one example keeps it in training.
    rest = stratified_sample(_strata(dataset, task), len(dataset), len(dataset) - size, seed)
    held_out = np.setdiff1d(np.arange(len(dataset)), rest)
    return dataset.select(rest), dataset.select(held_out)


def limit(dataset: Dataset, task: Task, size: int | None, seed: int, what: str) -> tuple[Dataset, list[str]]:
    """Draw a seeded sample of at most `size` examples, stratified by class.

    Returns:
        The sample, and a sentence about it if it is not the whole; `what` names the examples in the sentence.
    """
    if size is None or size >= len(dataset):
        return dataset, []
    chosen = stratified_sample(_strata(dataset, task), len(dataset), size, seed)
    return dataset.select(chosen), [f"Drew {size:,} of {len(dataset):,} {what} examples (seed {seed})."]


def _strata(dataset: Dataset, task: Task) -> Sequence[int] | None:
    return task.strata(dataset["label"][:])
