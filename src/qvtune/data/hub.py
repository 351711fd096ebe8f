"""Data sets in the format of the `datasets` library: saved in a folder, or on the Hugging Face hub."""

from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict

from qvtune.data import glue
from qvtune.data.options import DataOptions
from qvtune.data.records import Records, take_columns, text_dataset
from qvtune.data.task import TextData
from qvtune.errors import DataError
from qvtune.network import cache_only_when_unreachable

GLUE_REPOSITORY = "nyu-mll/glue"
VALIDATION_SPLITS = ("validation", "dev", "val", "eval", "test")

# Columns of GLUE as the hub has it, where they differ from the TSV files.
GLUE_COLUMNS = {"cola": ("sentence",), "mrpc": ("sentence1", "sentence2"), "mnli": ("premise", "hypothesis")}


def is_saved_folder(path: Path) -> bool:
    """Whether `path` was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def load_saved(path: Path) -> DatasetDict:
    """Load a folder written by `save_to_disk`; a single data set becomes the split "train".

    Raises:
        DataError: if it cannot be read.
    """
    from datasets import load_from_disk

    try:
        loaded = load_from_disk(str(path))
    except Exception as error:  # a folder can be broken in as many ways as there are libraries that read it
        raise DataError(f"{path}: cannot be read as a folder saved by the datasets library: {error}") from error
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict(train=loaded)


def load_hub(name: str, config: str | None) -> DatasetDict:
    """Load a data set from the hub by name.

    Raises:
        DataError: if there is no such data set, or no network and no copy in the cache.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        with cache_only_when_unreachable():
            return load_dataset(name, config)
    except DatasetNotFoundError as error:
        raise DataError(f"'{name}' is neither a file here nor a data set on the hub. Check the spelling.") from error
    except ValueError as error:  # an unknown or missing configuration
        raise DataError(f"data set '{name}': {str(error).splitlines()[0]} Name one with --data-config.") from error
    except Exception as error:
        # The hub client raises its own errors, httpx's and OSError, depending on where the connection fails.
        raise DataError(
            f"'{name}' is no file here, and the hub could not be asked ({type(error).__name__}). "
            "Check the path or the network, or give a local file or folder."
        ) from error


def from_splits(options: DataOptions, splits: DatasetDict, name: str) -> tuple[Records, Records | None, list[str]]:
    """Return training and validation records (None where there is no such split, or a file is named) and notes."""
    if "train" not in splits:
        raise DataError(f"{name}: has no split 'train', only {', '.join(splits)}.")
    train, note = _records(options, splits["train"], f"{name}, train")
    notes = [note] if note else []
    if options.validation is not None:
        return train, None, notes
    for split in VALIDATION_SPLITS:
        if split in splits and not _hidden(splits[split], train.label_column):
            notes.append(f"The validation set is the split '{split}'.")
            return train, _records(options, splits[split], f"{name}, {split}")[0], notes
    return train, None, notes


def load_glue(name: str, splits: DatasetDict) -> TextData:
    """Return a GLUE task from its splits as the hub has them."""
    task = glue.make_task(name)
    layout = glue.glue_task(name)
    columns = [str(c) for c in GLUE_COLUMNS.get(name, layout.texts)]
    sets = {}
    for split in ("train", *layout.splits):
        if split not in splits:
            raise DataError(f"{task.name}: has no split '{split}', only {', '.join(splits)}.")
        missing = [c for c in (*columns, "label") if c not in splits[split].column_names]
        if missing:
            raise DataError(f"{task.name}, {split}: has no column '{missing[0]}', only {splits[split].column_names}.")
        sets[split] = text_dataset([splits[split][c] for c in columns], splits[split]["label"])
    return TextData(task, sets.pop("train"), sets)


def _records(options: DataOptions, dataset: Dataset, source: str) -> tuple[Records, str | None]:
    def column(name: str) -> list[Any]:
        feature = dataset.features[name]
        cells = list(dataset[name])
        if isinstance(feature, ClassLabel):
            return [feature.int2str(cell) if cell is not None and cell >= 0 else None for cell in cells]
        return cells

    places = [f"{source}, row {number}" for number in range(1, len(dataset) + 1)]
    return take_columns(source, dataset.column_names, column, places, options.text_column, options.label_column)


def _hidden(dataset: Dataset, label: str) -> bool:
    # Test sets of benchmarks have -1 for every label.
    return label not in dataset.column_names or set(dataset[label][:100]) == {-1}
