"""Use a finished run: load its model, score texts, evaluate, write predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from qvtune.adapters import load_adapter
from qvtune.data.glue import glue_name, load_tests
from qvtune.data.records import check_characters, count_empty
from qvtune.device import choose_device, place
from qvtune.errors import ConfigError, DataError, ModelError, RunError
from qvtune.fast.fast_path import make_fast
from qvtune.files import file_digest, write_text
from qvtune.notebook import ShownInNotebooks
from qvtune.roles.unwrap import unwrap
from qvtune.tasks.examples import TUNING, TextData
from qvtune.tasks.files import changed_file, file_digests
from qvtune.tasks.glue import format_submission, make_task
from qvtune.tasks.load import load_data, load_glue
from qvtune.tasks.matching import labelled, read_matching, same_classes
from qvtune.tasks.table import task_from_dict
from qvtune.tasks.task import Task
from qvtune.training.batches import EvaluationBatches, read_columns
from qvtune.training.conclusion import mistakes_by_split
from qvtune.training.config import TrainConfig
from qvtune.training.evaluate import evaluate_set, measure
from qvtune.training.folder import RunFolder
from qvtune.training.model import ModelSource, find_model, load_config, load_model, load_tokenizer, text_length
from qvtune.training.predictions import format_predictions
from qvtune.training.readable import check_ends
from qvtune.training.records import read_records
from qvtune.training.verdict import Predictions, judge_run
from qvtune.training.writing import shown_as, written_metrics

FORMATS = (".jsonl", ".csv")


@dataclass(frozen=True)
class TrainedRun(ShownInNotebooks):
    """A finished run. Its tokenizer and model are loaded when they are first needed. A notebook shows its page.

    All other checks of a request come first, since loading a model takes long.
    """

    folder: RunFolder
    config: TrainConfig
    task: Task
    source: ModelSource
    saved: Path
    device: torch.device

    @cached_property
    def result(self) -> dict[str, Any]:
        """The result of the run, from `result.json`: `metrics`, `warnings`, `seconds` and others."""
        return self.folder.read_result()

    @property
    def table(self) -> pd.DataFrame:
        """What the run logged: a row for every entry of `metrics.jsonl`, a column for every number."""
        return pd.DataFrame(read_records(self.folder))

    @cached_property
    def model_config(self) -> Any:
        """The configuration of the base model."""
        return load_config(self.source)

    @cached_property
    def base_dtype(self) -> torch.dtype:
        """The type of the base model's weights in its files, as its configuration names it; float32 if it does not."""
        found = self.model_config
        if not self.config.saves_adapter:
            try:
                found = load_config(find_model(self.config.model, self.config.trust_remote_code))
            except ModelError:  # a run that saved a whole model does without its base
                found = None
        named = getattr(found, "dtype", None)
        return named if isinstance(named, torch.dtype) else torch.float32

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that the run saved."""
        trust = {"trust_remote_code": self.config.trust_remote_code}
        return load_tokenizer(ModelSource(str(self.saved), str(self.saved), trust), self.model_config)

    @cached_property
    def max_length(self) -> int:
        """The most tokens of a text that the model reads."""
        most = self.task.most_tokens
        return text_length(self.config.max_length, self.model_config, self.tokenizer, most=most)

    @cached_property
    def model(self) -> Any:
        """The model in evaluation mode, on its device.

        Raises:
            ModelError: if the base model cannot be loaded or the adapter does not fit it.
        """
        is_adapter = self.config.saves_adapter
        new_head = self.config.new_head and is_adapter
        loaded = load_model(self.source, self.model_config, self.task, self.tokenizer, new_head=new_head)
        loaded = place(loaded, self.device)
        if is_adapter:
            loaded = load_adapter(loaded, self.saved)
        if self.config.fast:
            loaded = make_fast(loaded)
        return loaded.eval()


def load_run(path: str | Path, *, model: str | None = None, device: str = "auto") -> TrainedRun:
    """Read a run's configuration and result; its model is loaded when it is first needed.

    Args:
        path: the run folder.
        model: where the base model is now, if it has moved since.
        device: where the model computes; it may differ from the device of the training.

    Raises:
        ConfigError: if there is no such device.
        RunError: if there is no finished run.
        ModelError: if the base model is no longer in its place.
    """
    place_of_model = choose_device(device)
    folder = RunFolder(Path(path))
    config = folder.read_finished()
    stored = folder.read_plan()["task"]
    if settings := folder.read_result().get("task_settings"):  # fitted during the run
        stored |= {"settings": settings}
    task = task_from_dict(stored)
    is_adapter = config.saves_adapter
    saved = folder.adapter if is_adapter else folder.model
    if not saved.is_dir():
        raise RunError(f"{saved}: what the run trained is gone. Put the folder back, or train again in a new --out.")
    source = find_model((model or config.model) if is_adapter else str(saved), config.trust_remote_code)
    return TrainedRun(folder, config, task, source, saved, place_of_model)


def score_texts(run: TrainedRun, tokens: Dataset, batch_size: int | None = None) -> NDArray[np.float32]:
    """Return the outputs of a run's model for tokenised texts, in their order and in the task's form.

    Args:
        run: the run.
        tokens: the tokenised texts.
        batch_size: examples per forward pass; the run's own when None.

    Raises:
        DataError: if a text holds the token that ends texts for this model.
    """
    check_ends(unwrap(run.model).config, run.tokenizer, tokens)
    read = read_columns(tokens, run.task, run.tokenizer.model_input_names)
    collate, size = run.task.collator(run.tokenizer), batch_size or run.config.eval_batch_size
    return evaluate_set(run.model, run.task, EvaluationBatches(read, collate, size), Console(stderr=True))


def _scores(run: TrainedRun, splits: Mapping[str, Dataset], batch_size: int | None) -> dict[str, NDArray[np.float32]]:
    return {
        split: score_texts(run, run.task.encode(dataset, run.tokenizer, run.max_length), batch_size)
        for split, dataset in splits.items()
    }


def _written_metrics(
    run: TrainedRun, splits: Mapping[str, Dataset], batch_size: int | None, samples: int | None
) -> dict[str, float]:
    """Return the metrics of what the model writes; none where it is not asked to."""
    most = samples or run.config.generate_samples
    size = batch_size or run.config.eval_batch_size
    return written_metrics(run.task, run.model, run.tokenizer, splits, size, most) if most else {}


def evaluate_run(
    run: TrainedRun | str | Path,
    *,
    data: str | None = None,
    glue_dir: Path | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    mistakes: int = 0,
    generate_samples: int | None = None,
) -> dict[str, Any]:
    """Measure a run on its own evaluation sets, or on a labelled file.

    Args:
        run: what `load_run` returned, or a run folder.
        data: a file with the columns of the training data, or with GLUE's own columns for a run on a GLUE task;
            "glue/TASK" for a GLUE task with the same classes; the run's own data when None.
        glue_dir: where GLUE is, if it has moved.
        text_columns: the text columns of the file, where they have other names.
        label_column: the label column of the file, if it has another name; several for a run with several.
        batch_size: examples per forward pass; the run's own when None.
        mistakes: how many of the worst mistakes to return.
        generate_samples: for a run that writes, how many examples of each set it answers; as in the run when None.

    Returns:
        `metrics`, `examples` by split, `task`, `data`, `run`, and `notes` on how far to trust the numbers. `warnings`
        if the numbers say that the model has learned nothing. For a classification also `classes` and `confusion`, see
        `Task.class_table`; for MNLI over both sets together. `mistakes`, see `worst_mistakes`, if any were asked for.

    Raises:
        ConfigError: for column options without a file, a GLUE task with other classes, or answers of a run that writes
            none.
        DataError: if the data cannot be read, lack a column, have labels that the run does not know, or have changed
            since the run.
        ModelError: if the model cannot be loaded.
        RunError: if there is no finished run, or its files are missing or damaged.
    """
    run = opened_run(run)
    if generate_samples is not None and not run.task.writes:
        raise ConfigError(f"--generate-samples is given, and the run was trained on {run.task.noun}. Leave it out.")
    splits, notes = _evaluation_sets(run, data, glue_dir, text_columns, label_column)
    scores = _scores(run, splits, batch_size)
    labels_of = {split: run.task.label_array(dataset["label"][:]) for split, dataset in splits.items()}
    evaluation = measure(run.task, scores, labels_of)
    all_scores, labels = evaluation.reported
    metrics = evaluation.task_metrics | _written_metrics(run, splits, batch_size, generate_samples)
    found = Predictions(run.task, all_scores, labels, "these examples")
    head_start = run.folder.read_result().get("head_start") if data in (None, run.task.name) else None
    return {
        "run": str(run.folder.path),
        "data": data or run.config.data,
        "task": run.task.name,
        "metrics": metrics,
        "main_metric": run.task.main_metric,
        "notes": [*_notes(run, data), *notes],
        "warnings": list(judge_run(found, run.config, (), metrics, head_start).values()),
        "examples": {split: len(dataset) for split, dataset in splits.items()},
        **run.task.class_table(all_scores, labels),
        **({"mistakes": mistakes_by_split(run.task, scores, splits, mistakes)} if mistakes else {}),
    }


def predict_file(
    run: TrainedRun | str | Path,
    data: str | Path,
    out: str | Path,
    *,
    batch_size: int | None = None,
    text_columns: Sequence[str] | None = None,
    overwrite: bool = False,
    spreadsheet_safe: bool = False,
) -> tuple[int, int]:
    """Predict every row of a file and write labels and probabilities, or scores, beside its columns.

    Args:
        run: what `load_run` returned, or a run folder.
        data: .csv, .tsv, .jsonl or .parquet with the text columns of the training data, or with GLUE's own columns for
            a run on a GLUE task.
        out: .jsonl or .csv.
        batch_size: examples per forward pass; the run's own when None.
        text_columns: the text columns of the file, where they have other names.
        overwrite: replace `out` if it exists.
        spreadsheet_safe: put an apostrophe before cells of a CSV file that a spreadsheet would compute.

    Returns:
        The number of rows, and the number of rows without any text; those are predicted too.

    Raises:
        ConfigError: for another format, or if `out` exists.
        DataError: if the file cannot be read or lacks a text column.
    """
    run, data, out = opened_run(run), Path(data), Path(out)
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"{out}: predictions are written as {' or '.join(FORMATS)}.")
    table, names = read_matching(run.task, data, text_columns)
    if out.exists() and out.samefile(data):
        raise ConfigError(f"{out}: is the file to predict. Give --out another name.")
    _check_free(out, overwrite)
    texts = run.task.unlabelled(table, names)
    for name in table.columns:  # all columns go into the output too
        for place_of_cell, value in zip(table.places, table.column(name), strict=True):
            check_characters(name, value, place_of_cell)
    predicted = _predict(run, texts, batch_size)
    inputs = {name: table.column(name) for name in table.columns}
    write_text(out, format_predictions(predicted, inputs, out.suffix.lower(), spreadsheet_safe))
    return len(predicted), count_empty(texts)


def predict_glue(
    run: TrainedRun, name: str, glue_dir: Path, out: Path, batch_size: int | None = None, *, overwrite: bool = False
) -> list[Path]:
    """Predict the test sets of a GLUE task and write them in the benchmark's submission format.

    Args:
        run: a run on that task.
        name: the task's name, such as "rte".
        glue_dir: folder with the benchmark's TSV folders.
        out: a folder, or for a task with one test set a file that ends in .tsv.
        batch_size: examples per forward pass; the run's own when None.
        overwrite: replace files that exist.

    Returns:
        The files written.

    Raises:
        ConfigError: if the run has another task, or a file exists.
    """
    if run.task.name != f"glue/{name}":
        raise ConfigError(f"the run was trained on {run.task.name}, and predictions are asked for glue/{name}.")
    tests = load_tests(name, glue_dir)
    if out.suffix and (out.suffix != ".tsv" or len(tests) > 1):
        raise ConfigError(f"{out}: give a folder; glue/{name} writes {', '.join(file for file, _, _ in tests)}.")
    paths = [out if out.suffix else out / file for file, _, _ in tests]
    for path in paths:
        _check_free(path, overwrite)
    for path, (_, indices, dataset) in zip(paths, tests, strict=True):
        tokens = run.task.encode(dataset, run.tokenizer, run.max_length)
        scores = score_texts(run, tokens, batch_size)
        write_text(path, format_submission(name, indices, scores))
    return paths


def _predict(run: TrainedRun, texts: Dataset, batch_size: int | None) -> list[dict[str, Any]]:
    """Return the prediction of every example, by column."""
    if run.task.writes:
        shown = shown_as("writing")
        size = batch_size or run.config.eval_batch_size
        return [{"prediction": text} for text in run.task.written(run.model, run.tokenizer, texts, size, shown)]
    tokens = run.task.encode(texts, run.tokenizer, run.max_length)
    return run.task.predictions(score_texts(run, tokens, batch_size), texts)


def opened_run(run: TrainedRun | str | Path) -> TrainedRun:
    """Return a run; a folder is loaded."""
    return run if isinstance(run, TrainedRun) else load_run(run)


def _check_free(out: Path, overwrite: bool) -> None:
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder. Name a file.")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out}: exists already. Give --out another name, or --overwrite to replace it.")


def _evaluation_sets(
    run: TrainedRun,
    data: str | None,
    glue_dir: Path | None,
    text_columns: Sequence[str] | None,
    label_column: str | Sequence[str] | None,
) -> tuple[dict[str, Dataset], list[str]]:
    """Return the examples by split, and notes about their labels."""
    name = glue_name(data) if data is not None else None
    if data is not None and name is None:
        table, texts = read_matching(run.task, Path(data), text_columns)
        named = [label_column] if isinstance(label_column, str) else label_column
        dataset, notes = labelled(run.task, table, texts, named)
        return {"file": dataset}, notes
    for option, value in (("--text-column", text_columns), ("--label-column", label_column)):
        if value is not None:
            raise ConfigError(f"{option} is for a file, and --data is {data or 'the data of the run'}. Leave it out.")
    if name is None or data == run.task.name:
        own = own_data(run, glue_dir).evaluation
        return {split: dataset for split, dataset in own.items() if split != TUNING}, []
    other = make_task(name)
    if not same_classes(run.task, other):
        raise ConfigError(
            f"the run was trained on {run.task.name} ({_described(run.task)}), and an evaluation is asked for {data} "
            f"({_described(other)}). Give a task with the same classes, or a file."
        )
    return load_glue(name, glue_dir or run.config.glue_dir).with_labels(run.task.labels).evaluation, []


def _described(task: Task) -> str:
    texts = "two texts" if len(task.text_columns) == 2 else "one text"
    return f"{texts}: {', '.join(task.labels)}" if task.labels else f"{texts}: a number"


def own_data(run: TrainedRun, glue_dir: Path | None = None) -> TextData:
    """Load the examples that a run was trained and evaluated on.

    Args:
        run: the run.
        glue_dir: where GLUE is, if it has moved.

    Raises:
        DataError: if they have changed since the run, or cannot be read.
    """
    # Class weights do not change the examples.
    config = run.config.model_copy(update={"class_weights": None} | ({"glue_dir": glue_dir} if glue_dir else {}))
    changed = changed_file(run.folder.read_plan()["files"], file_digests(config))
    if changed is not None:
        raise DataError(
            f"{changed} has changed since the run was trained, so this would not measure what the run measured. Put "
            "the file back, or give labelled data that it was not trained on to 'qvtune evaluate --data'."
        )
    loaded = load_data(config, run.config.seed)
    return loaded.with_labels(run.task.labels)


def _notes(run: TrainedRun, data: str | None) -> list[str]:
    if data is None or not Path(data).is_file():
        return []
    trained_on = run.folder.read_plan()["files"].values()
    if file_digest(Path(data)) not in trained_on:
        return []
    return [f"{data} is a file that the run was trained or tuned on, so these numbers flatter it."]
