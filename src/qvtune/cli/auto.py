"""`--lr auto` and similar options: a search for the rates before a run."""

import os
from pathlib import Path
from typing import Any

from qvtune.errors import ConfigError, RunError
from qvtune.methods.table import METHODS
from qvtune.options import option_name
from qvtune.search.given import without_auto
from qvtune.training.config import AUTO, SEARCHED, TrainConfig, make_config, read_config
from qvtune.training.folder import SUGGESTION, RunFolder


def find_auto(values: dict[str, Any], file: Path | None, budget: str | None) -> dict[str, Any]:
    """Return `values` with numbers instead of "auto", found by a search that is stored in the run's folder.

    Other values stay as they are, defaults included. With `lr` the head's rate is searched too, unless it is given.

    Raises:
        ConfigError: if there is a budget but nothing to search for, or the run has several processes.
        QVTuneError: as from `suggest`.
    """
    options = (read_config(file) if file else {}) | values
    wanted = [name for name in SEARCHED if options.get(name) == AUTO]
    if not wanted:
        if budget is not None:
            raise ConfigError("--budget is given, and no rate is to be searched. Give --lr auto, or leave it out.")
        return values
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"{option_name(wanted[0])} is auto, which is for one process. Run 'qvtune suggest', and give its rates."
        )
    options = without_auto(options)
    config = make_config(options)  # reports other errors before anything runs
    _check_folder(config)
    has_roles = METHODS[config.method].has_roles
    if "lr" not in wanted:
        options["lr"] = config.lr
        if "head_lr" not in wanted:
            options["head_lr"] = config.head_lr or config.lr
    if "lr_ratio" not in wanted and config.value_lr is None and has_roles:
        options["lr_ratio"] = config.lr_ratio
    from qvtune.cli.suggest import find_rates

    found = find_rates({k: v for k, v in options.items() if k != "out"}, budget, config.out / SUGGESTION)
    rates: dict[str, Any] = {"lr": found.lr, "head_lr": found.head_lr}
    if has_roles and config.value_lr is None:
        rates["lr_ratio"] = found.lr_ratio
    return values | {name: rate for name, rate in rates.items() if rate is not None}


def _check_folder(config: TrainConfig) -> None:
    """Check before the search that the run may be written into its folder."""
    folder = RunFolder(config.out)
    if not folder.is_run:
        folder.claim(config)
    elif not (folder.path / SUGGESTION).is_dir():
        raise RunError(f"{folder.path}: holds a run whose rates were given, not auto. Give another --out.")
