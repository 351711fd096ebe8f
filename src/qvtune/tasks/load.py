"""`load_data`: load a task with its training and evaluation examples from options."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from qvtune.amounts import count
from qvtune.data import hub, packaged
from qvtune.data.glue import glue_name, glue_task
from qvtune.data.records import Records, take_columns
from qvtune.data.samples import stratified_sample
from qvtune.data.tables import READERS, Table, data_name, read_table, table_suffix
from qvtune.errors import DataError
from qvtune.tasks import glue
from qvtune.tasks.examples import TextData
from qvtune.tasks.guess import make_task
from qvtune.tasks.options import DataOptions
from qvtune.tasks.remarks import remarks
from qvtune.tasks.task import Task

TUNING = "tuning"


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
    if options.tune_fraction:
        train, evaluation[TUNING] = _hold_out(train, loaded.task, options.tune_fraction, seed)
        notes.append(f"The checkpoint is chosen on {len(evaluation[TUNING]):,} examples held out of training.")
    train, note = limit(train, loaded.task, options.max_train_samples, seed, "training")
    notes += note
    for split, dataset in evaluation.items():
        evaluation[split], note = limit(dataset, loaded.task, options.max_eval_samples, seed, split)
        notes += note
    return TextData(loaded.task, train, evaluation, (*notes, *remarks(loaded.task, train, evaluation)))


def read_records(path: Path, options: DataOptions, task: Task | None = None) -> tuple[Records, str | None]:
    """Read a labelled file, with the columns of `task` if one is given.

    Returns:
        The records, and a sentence about guessed columns, or None.
    """
    table = read_table(path)
    texts = task.text_columns if task and task.text_columns[0] in table.columns else options.text_column
    label = task.label_column if task and task.label_column in table.columns else options.label_column
    records, note = take_columns(str(path), table.columns, table.column, table.places, texts, label)
    if task and len(records.text_columns) != len(task.text_columns):
        raise DataError(
            f"{path}: text is {' and '.join(records.text_columns)}, but the training data has "
            f"{' and '.join(task.text_columns)}. Give both the same columns."
        )
    return records, note


def _load(options: DataOptions, seed: int) -> TextData:
    data = options.data
    name = glue_name(data)
    if name is not None:
        return load_glue(name, options.glue_dir)
    if data.startswith(packaged.PREFIX):
        return _from_records(data, *_packaged_records(data.removeprefix(packaged.PREFIX), options), options, seed)
    path = Path(data)
    if path.is_dir() and hub.is_saved_folder(path):
        return _from_records(path.name, *from_splits(options, hub.load_saved(path), data), options, seed)
    # Folders such as "." and ".." have no name to which a suffix could be added.
    if named := next((s for s in READERS if path.name and not path.suffix and path.with_suffix(s).is_file()), None):
        raise DataError(f"{data}: no such file. Did you mean '{path.with_suffix(named)}'?")
    if path.exists() or table_suffix(path) in READERS or data.startswith((".", "/", "~")):
        train, note = read_records(path, options)
        return _from_records(data_name(path), train, None, [note] if note else [], options, seed)
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


def from_splits(options: DataOptions, splits: DatasetDict, name: str) -> tuple[Records, Records | None, list[str]]:
    """Return training and validation records (None if there is no such split, or a file is given) and notes."""
    if "train" not in splits:
        raise DataError(f"{name}: has no split 'train', only {', '.join(splits)}.")
    columns = options.text_column, options.label_column
    train, note = hub.split_records(splits["train"], f"{name}, train", *columns)
    notes = [note] if note else []
    if options.validation is not None:
        return train, None, notes
    for split in hub.VALIDATION_SPLITS:
        if split in splits and not hub.is_hidden(splits[split], train.label_column):
            notes.append(f"The validation set is the split '{split}'.")
            return train, hub.split_records(splits[split], f"{name}, {split}", *columns)[0], notes
    return train, None, notes


def _packaged_records(name: str, options: DataOptions) -> tuple[Records, None, list[str]]:
    path = packaged.reviews_path(name)
    table = read_table(path)
    chosen = [i for i, source in enumerate(table.column("source")) if source == name]
    part = Table(path, table.columns, [table.rows[i] for i in chosen], [table.places[i] for i in chosen])
    labels = [packaged.REVIEW_LABELS[label] for label in part.column("label")]
    return Records(options.data, ("text",), "label", (part.column("text"),), labels, part.places), None, []


def _from_records(
    name: str, train: Records, validation: Records | None, notes: list[str], options: DataOptions, seed: int
) -> TextData:
    task = make_task(name, train, options.task_type)
    if options.task_type is None and (reason := task.explain_guess(train.labels, train.places)):
        notes = [*notes, reason]
    dataset = task.examples(train)
    if options.validation is not None:
        if options.validation.absolute() == Path(options.data).absolute():
            raise DataError(f"{options.validation}: is the training file too. Name another, or leave --validation out.")
        validation, note = read_records(options.validation, options, task)
        notes += [f"{options.validation}: {note}"] if note else []
    if validation is not None:
        return TextData(task, dataset, {"validation": task.examples(validation)}, tuple(notes))
    dataset, held_out = _hold_out(dataset, task, options.validation_fraction, seed)
    kind = "" if _strata(held_out, task) is None else "stratified, "
    size = count(len(held_out), "example")
    notes.append(f"The validation set is {size} held out of {train.source} ({kind}seed {seed}).")
    return TextData(task, dataset, {"validation": held_out}, tuple(notes))


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
    return task.strata(list(dataset["label"]))
