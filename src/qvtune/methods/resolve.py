"""Which options a method takes, their defaults, and whether they fit a model."""

import math
from collections.abc import Sequence
from typing import Any

from qvtune.arguments import check_number
from qvtune.errors import AdaptError, nearest
from qvtune.methods.method import Batches
from qvtune.methods.table import METHODS

# VeRA's matrices may have a higher rank than the projections that they change, but above this they fit no model.
MOST_RANK = 2**16


def resolve_options(method: str, *, roles: Any, layers: Any, **given: Any) -> dict[str, Any]:
    """Return the options of a method by name, None for those that it does not take.

    Raises:
        AdaptError: for an unknown method, a bad number, or an option that the method does not take.
    """
    if method not in METHODS:
        raise AdaptError(f"unknown method '{method}'.{nearest(str(method), METHODS)} Methods are {', '.join(METHODS)}.")
    for name, value in given.items():
        if value is not None:
            _check_number(name, value)
    entry = METHODS[method]
    places = {"roles": roles, "layers": layers} if not entry.has_roles else {}
    for name, value in (places | given).items():
        if value is not None and name not in entry.defaults:
            raise AdaptError(f"{name} is {value!r}, and method '{method}' has no {name}. Leave it out.")
    return {name: entry.defaults.get(name) if value is None else value for name, value in given.items()}


def check_supplies(method: str, total_steps: int | None, batches: Batches | None) -> None:
    """Check that a method gets what it needs in advance, and that its library is installed.

    Raises:
        AdaptError: if something is missing; the text names it.
    """
    entry = METHODS[method]
    if entry.steps and total_steps is None:
        raise AdaptError(f"method '{method}' shares out ranks over the steps of a training. Give total_steps.")
    if entry.batches and batches is None:
        raise AdaptError(
            f"method '{method}' looks at data before it trains. Give batches, a list of some {entry.batches} "
            "dictionaries of tensors that the model takes, labels included."
        )
    entry.check_installed()


def check_layers(layers: Sequence[int] | None) -> None:
    """Check that layers are given as numbers.

    Raises:
        AdaptError: if they are not.
    """
    if layers is not None and (not isinstance(layers, Sequence) or not all(isinstance(index, int) for index in layers)):
        raise AdaptError(f"layers is {layers!r}; it must be a list of layer numbers, as in [0, 1, -1].")


def _check_number(name: str, value: Any) -> None:
    check_number(name, value, AdaptError)
    number: Any = value  # the type Real does not support comparison
    if name == "rank" and (number < 1 or number != int(number)):
        raise AdaptError(f"rank is {value}; it must be at least 1, and whole.")
    if name == "rank" and number > MOST_RANK:
        raise AdaptError(f"rank is {value}; it must be at most {MOST_RANK}.")
    if name == "alpha" and not 0 < number < math.inf:
        raise AdaptError(f"alpha is {value}; it must be above 0, and finite.")
    if name == "dropout" and not 0 <= number < 1:
        raise AdaptError(f"dropout is {value}; it must be at least 0 and below 1.")
    if name == "density" and not 0 < number <= 1:
        raise AdaptError(f"density is {value}; it must be above 0, and at most 1.")
