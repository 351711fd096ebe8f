"""Checks of the arguments of public calls: an argument of a wrong type is named at once."""

import os
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from qvtune.errors import AdaptError, ConfigError


def check_model(model: Any, error: type[Exception] = AdaptError) -> None:
    """Check that a model is one that torch knows.

    Raises:
        AdaptError, or `error`: if it is not.
    """
    from torch import nn  # takes seconds to import, and the command line needs only the other checks

    if not isinstance(model, nn.Module):
        raise error(f"model is a {type(model).__name__}; load it first, as with AutoModel.from_pretrained.")


def check_names(name: str, value: Any) -> None:
    """Check that an argument is a list of names.

    Raises:
        AdaptError: if it is not.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(part, str) for part in value):
        example = value if isinstance(value, str) else "classifier"
        raise AdaptError(f"{name} is {value!r}; it must be a list of names, as in ['{example}'].")


def check_number(name: str, value: Any, error: type[Exception]) -> None:
    """Check that an argument is a number, and not a truth value.

    Raises:
        error: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise error(f"{name} is {value!r}, a {type(value).__name__}; it must be a number.")


def checked_folder(folder: Any) -> Path:
    """Return a folder's path.

    Raises:
        AdaptError: if it is not a path.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise AdaptError(f"folder is {folder!r}, a {type(folder).__name__}; it must be a path.")
    return Path(folder)


def as_options(options: Any) -> dict[str, Any]:
    """Return the options of a call as a dictionary.

    Raises:
        ConfigError: if they are something else.
    """
    if not isinstance(options, Mapping):
        raise ConfigError(f"options is {options!r}; it should be a dictionary of options of train.")
    return dict(options)
