"""Data sets in the format of the `datasets` library: saved in a folder, or on the Hugging Face hub."""

from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict

from qvtune.data.tables import Table
from qvtune.errors import DataError
from qvtune.network import cache_only_when_unreachable

GLUE_REPOSITORY = "nyu-mll/glue"
VALIDATION_SPLITS = ("validation", "dev", "val", "eval", "test")


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
    except Exception as error:  # many libraries read a folder, each with its own errors
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


def split_table(dataset: Dataset, source: str) -> Table:
    """Return the rows of a split, with class names instead of ids; `source` names it in messages."""

    def column(name: str) -> list[Any]:
        feature = dataset.features[name]
        cells = list(dataset[name])
        inner = getattr(feature, "feature", None)
        if isinstance(feature, ClassLabel):
            return [_class_name(feature, cell) for cell in cells]
        if isinstance(inner, ClassLabel):
            return [cell if cell is None else [_class_name(inner, part) for part in cell] for cell in cells]
        return cells

    names = tuple(dataset.column_names)
    rows = list(zip(*(column(name) for name in names), strict=True))
    return Table(source, names, rows, [f"{source}, row {number}" for number in range(1, len(dataset) + 1)])


def _class_name(feature: ClassLabel, cell: int | None) -> str | None:
    return feature.int2str(cell) if cell is not None and cell >= 0 else None


def is_hidden(dataset: Dataset, label: str) -> bool:
    """Whether a split has no labels."""
    # Test sets of benchmarks have -1 for every label.
    return label not in dataset.column_names or all(value == -1 for value in dataset[label][:100])
