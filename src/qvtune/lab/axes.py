"""Axes of a grid: which options vary, over which values."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qvtune.errors import ConfigError, nearest
from qvtune.training.config import NOT_IN_FINGERPRINT, PATHS, WORDS, TrainConfig

# Options whose values may contain commas, so semicolons separate their values.
LISTS = ("layers", "text_column", "target")
# Pairs of options that set the same thing, and then also the words for options.
ALTERNATIVES = (("lr_ratio", "value_lr"), ("batch_size", "batch_tokens"))
RIVALS = (*ALTERNATIVES, *((option, word) for word, option in WORDS.items()))

Axes = dict[str, list[Any]]


def parse_axes(texts: Sequence[str]) -> Axes:
    """Read axes from the command line, as in ["lr=1e-4,4e-4", "layers=0,1;2,3"].

    Raises:
        ConfigError: naming the axis that is malformed, or comes twice.
    """
    axes: Axes = {}
    for text in texts:
        name, sign, values = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not sign or not name:
            raise ConfigError(f"--axis is '{text}'; write OPTION=VALUE,VALUE, as in --axis lr=1e-4,4e-4.")
        if name in axes:
            raise ConfigError(f"--axis {name} is given twice. Give all its values in one.")
        separator = ";" if name in LISTS or ";" in values else ","
        axes[name] = [value.strip() for value in values.split(separator) if value.strip()]
    return axes


def check_axes(axes: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> None:
    """Check that axes name options that can vary, have values, and do not conflict with each other or with `options`.

    Raises:
        ConfigError: naming every problem at once.
    """
    problems = []
    known = [*TrainConfig.model_fields, *WORDS]
    fixed = (NOT_IN_FINGERPRINT | {"logging_steps"}) - set(PATHS)
    for name, values in axes.items():
        if name not in known:
            problems.append(f"--axis {name}: unknown option.{nearest(name, known)} 'qvtune train --help' lists all.")
        elif name in fixed:
            problems.append(f"--axis {name}: changes no result, so it is no axis. Give --{name.replace('_', '-')}.")
        elif isinstance(values, str) or not isinstance(values, Sequence):
            problems.append(f"--axis {name}: is {values!r}, and must be a list of values, as in [{values!r}].")
        elif not values:
            problems.append(f"--axis {name}: has no values. Write --axis {name}=VALUE,VALUE.")
        if name in options:
            problems.append(f"--axis {name}: --{name.replace('_', '-')} {options[name]} is given too. Leave one out.")
    for one, other in RIVALS:
        if one in axes and other in axes:
            problems.append(f"--axis {one} and --axis {other} set the same thing. Leave one out.")
        for axis, option in ((one, other), (other, one)):
            if axis in axes and option in options and option not in axes:
                problems.append(
                    f"--axis {axis}: --{option.replace('_', '-')} {options[option]} is given too, and sets the same "
                    "thing. Leave one out."
                )
    if problems:
        raise ConfigError("\n".join(problems))


def read_axes(value: Any, file: Path) -> Axes:
    """Read axes from the value of "axes" in a YAML file.

    Raises:
        ConfigError: if the value is not a list of values by option.
    """
    if not isinstance(value, dict) or not all(isinstance(values, list) for values in value.values()):
        raise ConfigError(f"{file}: axes must hold a list of values by option, as in 'lr: [1e-4, 4e-4]'.")
    return {str(name).replace("-", "_"): values for name, values in value.items()}


def combinations(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the axes' values, the last axis varying fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
