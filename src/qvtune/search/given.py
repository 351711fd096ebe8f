"""Which rates a user gives, and which are searched."""

from collections.abc import Mapping
from typing import Any

from qvtune.errors import ConfigError
from qvtune.methods.table import METHODS
from qvtune.options import option_name
from qvtune.training.config import AUTO, SEARCHED, TrainConfig

# The names of rates in a search; the options of a run have the same names.
LR, VALUE_LR, HEAD_LR = "lr", "value_lr", "head_lr"

ROLE_RATES = ("query_lr", "key_lr", "output_lr", "rate")


def without_auto(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without the rates that are "auto"."""
    return {name: value for name, value in options.items() if not (name in SEARCHED and value == AUTO)}


def given_rates(config: TrainConfig, options: Mapping[str, Any]) -> tuple[dict[str, float], float | None]:
    """Return the given rates, by "lr", "value_lr" and "head_lr", and λ if it is given and η_QK is not.

    Args:
        config: all options, defaults included.
        options: the given ones.

    Raises:
        ConfigError: for rates of single roles, which cannot be searched.
    """
    single = [name for name in ROLE_RATES if options.get(name) is not None]
    if single:
        raise ConfigError(
            f"{option_name(single[0])} is given; a search has one rate for all roles but the value. Leave it out."
        )
    fixed = {}
    if options.get("lr") is not None:
        fixed[LR if METHODS[config.method].has_roles else HEAD_LR] = config.lr
    if options.get("head_lr") is not None:
        assert config.head_lr is not None
        fixed[HEAD_LR] = config.head_lr
    if options.get("value_lr") is not None:
        assert config.value_lr is not None
        fixed[VALUE_LR] = config.value_lr
    ratio = config.lr_ratio if options.get("lr_ratio") is not None else None
    if ratio is not None and LR in fixed:
        return fixed | {VALUE_LR: config.lr * ratio}, None
    return fixed, ratio


def checked_rate(name: str, value: Any) -> float | None:
    """Return a rate that a Python caller gives; None if it is searched.

    Raises:
        ConfigError: if it is not a number above 0.
    """
    if value is None or value == AUTO:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(f"{name} is {value!r}; it should be a number above 0, or None to be searched.")
    return float(value)
