"""Arrays of arrays, for examples that have several labels each, and the same one after the other."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def ragged(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return an array of arrays: (n,). NumPy alone would make one array of them if all are of one shape."""
    found = np.empty(len(rows), dtype=object)
    for place, row in enumerate(rows):
        found[place] = row
    return found


def flat(values: NDArray[Any]) -> NDArray[Any]:
    """Return the parts of an array of arrays one after the other; another array as it is."""
    return np.concatenate(list(values)) if values.dtype == object else values


def by_row(function: Callable[[NDArray[Any]], NDArray[Any]], values: NDArray[Any]) -> NDArray[Any]:
    """Apply a function to an array, or to every part of an array of arrays."""
    return ragged([function(row) for row in values]) if values.dtype == object else function(values)
