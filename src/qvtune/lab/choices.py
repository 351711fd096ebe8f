"""Read `--methods`, `--tasks` and `--seeds`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qvtune.data.glue import GLUE, PREFIX
from qvtune.errors import ConfigError, nearest
from qvtune.lab.axes import ALTERNATIVES
from qvtune.methods.table import METHODS
from qvtune.training.config import TrainConfig, make_config

# Options that a comparison sets for each cell, and the option to give instead.
LISTED = {"method": "--methods", "seed": "--seeds", "task": "--tasks"}


@dataclass(frozen=True)
class Contender:
    """A method of a comparison: its name in tables and its own options, which include `method`."""

    name: str
    options: Mapping[str, Any]


def parse_methods(methods: str | Sequence[str]) -> list[Contender]:
    """Read "lora,lora:rank=16+lr_ratio=2" or the same as a list.

    Raises:
        ConfigError: for an unknown method or option, or one that occurs twice.
    """
    words = _split(methods)
    if not words:
        raise ConfigError("--methods is empty. Name methods, as in --methods lora,full")
    contenders = [_contender(word) for word in words]
    _check_distinct("--methods", [contender.name for contender in contenders])
    return contenders


def parse_tasks(tasks: str | Sequence[str]) -> list[str]:
    """Read "rte,mrpc" or the same as a list: names of GLUE tasks, with or without "glue/".

    Raises:
        ConfigError: for a task that GLUE does not have, or one that occurs twice.
    """
    names = [word.removeprefix(PREFIX) for word in _split(tasks)]
    if not names:
        raise ConfigError(f"--tasks is empty. Name tasks of GLUE: {', '.join(GLUE)}.")
    for name in names:
        if name not in GLUE:
            raise ConfigError(
                f"--tasks: unknown GLUE task '{name}'.{nearest(name, GLUE)} The tasks are {', '.join(GLUE)}; for data "
                "of your own give --data."
            )
    _check_distinct("--tasks", names)
    return names


def parse_seeds(seeds: int | str | Sequence[int]) -> list[int]:
    """Read the seeds: 3 or "3" means 0, 1, 2; "1,5,7" or a list means those seeds; "4," means the seed 4 alone.

    Raises:
        ConfigError: if there are none, or one occurs twice or is not a whole number of at least 0.
    """
    if isinstance(seeds, str):
        words = [word.strip() for word in seeds.split(",") if word.strip()]
        wrong = [word for word in words if not re.fullmatch(r"\d+", word)]
        if wrong or not words:
            raise ConfigError(f"--seeds is '{seeds}'; it should be how many (3 means 0,1,2) or a list such as 1,5,7.")
        seeds = [int(word) for word in words] if "," in seeds else int(seeds)
    listed = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not listed:
        raise ConfigError(f"--seeds is {seeds}, which leaves no run. Give at least one seed.")
    _check_distinct("--seeds", [str(seed) for seed in listed])
    return listed


def check_shared(options: Mapping[str, Any]) -> None:
    """Refuse options for which every run of a comparison has its own value.

    Raises:
        ConfigError: if there is one; the text names the option to give instead.
    """
    for option, instead in LISTED.items():
        if option in options:
            raise ConfigError(f"--{option} differs from run to run here. Give {instead} instead.")


def overlay(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `shared` overridden by `own`, also where another option sets the same thing."""
    replaced = {name for pair in ALTERNATIVES if set(pair) & set(own) for name in pair}
    return {name: value for name, value in shared.items() if name not in replaced} | dict(own)


def untaken(method: str, options: Mapping[str, Any], methods: Iterable[str]) -> list[str]:
    """Return those of `options`, given for all `methods`, that mean nothing to `method` but something to others.

    An option that no method takes is not returned, so that the run's own check refuses it.
    """
    others = set(methods)
    return [
        option
        for option, value in options.items()
        if not _takes(method, option, value) and any(_takes(other, option, value) for other in others)
    ]


def _takes(method: str, option: str, value: Any) -> bool:
    # Try the option alone, at its default: a bad value from the user is an error, and says nothing about the method.
    field = TrainConfig.model_fields.get(option)
    default = None if field is None else field.get_default()
    probe = {"model": "none", "data": "none", "out": "none", "method": method}
    try:
        make_config(probe | {option: value if default is None else default})
    except ConfigError:
        return False
    return True


def _contender(word: str) -> Contender:
    method, colon, rest = word.partition(":")
    if method not in METHODS:
        raise ConfigError(f"--methods: unknown method '{method}'.{nearest(method, METHODS)} {_known()}")
    if colon and not rest:
        raise ConfigError(f"--methods: '{word}' ends after the colon. Write options as in lora:rank=16+lr_ratio=2.")
    options: dict[str, Any] = {"method": method}
    # A plus before "name=" separates options; a plus inside a number such as 1e+2 does not.
    for part in re.split(r"\+(?=[^+=]*=)", rest) if colon else []:
        option, equals, value = part.partition("=")
        name = option.strip().lstrip("-").replace("-", "_")
        known = TrainConfig.model_fields.keys() - {"method", "seed", "out"}
        if not equals or not value or name not in known:
            hint = nearest(name, known) if equals else " Write options as in lora:rank=16+lr_ratio=2."
            raise ConfigError(f"--methods: '{word}' has the unknown option '{part}'.{hint}")
        if name in options:
            raise ConfigError(f"--methods: '{word}' gives {name} twice.")
        options[name] = value.strip()
    own = "+".join(f"{name}={value}" for name, value in options.items() if name != "method")
    return Contender(f"{method}:{own}" if own else method, options)


def _known() -> str:
    return f"The methods are {', '.join(METHODS)}."


def _split(words: str | Sequence[str]) -> list[str]:
    parts = words.split(",") if isinstance(words, str) else words
    return [part.strip() for part in parts if part.strip()]


def _check_distinct(option: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(f"{option}: '{name}' occurs twice. Name each once.")
