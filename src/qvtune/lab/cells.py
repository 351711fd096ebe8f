"""`Cell`: a run that is wanted, named by the hash of its configuration."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qvtune.errors import ConfigError
from qvtune.lab.store import Store
from qvtune.training.config import PATHS, WORDS, TrainConfig, make_config


@dataclass(frozen=True)
class Cell:
    """A run that is wanted: `labels` distinguish it from the others; `config.out` is its folder in the store."""

    name: str
    labels: dict[str, Any]
    config: TrainConfig


def make_cell(store: Store, labels: Mapping[str, Any], options: Mapping[str, Any]) -> Cell:
    """Resolve the options of one run.

    Args:
        store: where it will be.
        labels: what distinguishes it from the others; a label that is an option gets the option's resolved value.
        options: options of `train`, as in the command line or a YAML file, without `out`.

    Raises:
        ConfigError: for an option that makes no sense; the text names the run.
    """
    try:
        config = make_config(dict(options) | {"out": "none"})
    except ConfigError as error:
        run = ", ".join(f"{name}={value}" for name, value in labels.items())
        raise ConfigError("\n".join(f"{run}: {line}" for line in str(error).splitlines())) from None
    name = config.fingerprint()
    resolved = config.model_dump(mode="json")
    named = {label: resolved.get(label, value) for label, value in labels.items()}
    return Cell(name, named, config.model_copy(update={"out": store.run_folder(name).path}))


def check_distinct(cells: Sequence[Cell]) -> None:
    """Check that no two cells are the same run.

    Raises:
        ConfigError: if two are: a value is given twice, or files differ only in their folders. The text names the
            cells.
    """
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.name, cell)
        if other is cell:
            continue
        alike = [name for name in PATHS if getattr(other.config, name) != getattr(cell.config, name)]
        if alike:
            raise ConfigError(
                f"{getattr(other.config, alike[0])} and {getattr(cell.config, alike[0])} have one name, by which runs "
                f"are told apart. Rename one (--axis {alike[0]})."
            )
        same = ", ".join(f"{name}={value}" for name, value in cell.labels.items())
        raise ConfigError(f"{same} is asked for twice. Give every value once.")


def given_options(options: Mapping[str, Any], cells: Iterable[Cell]) -> dict[str, Any]:
    """Return the resolved values of the options that the user gave for all cells."""
    first = next(iter(cells))
    resolved = first.config.model_dump(mode="json")
    names = {WORDS.get(name, name) for name in options}
    return {name: resolved[name] for name in names if name not in first.labels and name != "out"}
