"""Cheap random bits for dropout on a CPU, where torch draws every sample apart."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Bits that decide over one element: a rate is a multiple of 2 ** -15, off by less than 1.6e-5.
RESOLUTION = 15

# Integers as wide as floating-point numbers of so many bytes.
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def keep_mask(shape: torch.Size, rate: float) -> Tensor:
    """Draw which elements dropout keeps.

    Four elements share a word of numpy's SFC64, which starts each time from 192 bits of torch's global CPU generator.
    So masks are seeded by `torch.manual_seed`, come back when that generator's state does, as on resuming a checkpoint
    or computing activations a second time, and do not depend on each other or on the number of threads.

    Args:
        shape: of the mask.
        rate: probability of dropping an element, rounded to `realized`.

    Returns:
        int16 of `shape`, -1 (all bits set) where an element is kept and 0 where it is dropped.
    """
    count = shape.numel()
    bits = _random_words(-(-count // 4)).view(np.int16)[:count]
    # 15 random bits minus the number of them that keep are negative for those; the sign then fills all 16 bits.
    np.bitwise_and(bits, 2**RESOLUTION - 1, out=bits)
    np.subtract(bits, 2**RESOLUTION - _threshold(rate), out=bits)
    np.right_shift(bits, RESOLUTION, out=bits)
    return torch.from_numpy(bits).view(shape)


def realized(rate: float) -> float:
    """Return the rate at which elements are dropped for a rate that was asked for."""
    return _threshold(rate) / 2**RESOLUTION


def is_drawn(rate: float) -> bool:
    """Whether a rate leaves anything to chance: not so close to 0 or 1 that it is rounded to it."""
    return 0 < realized(rate) < 1


def apply_mask(values: Tensor, keep: Tensor) -> Tensor:
    """Return floating-point `values` with exact zeros where `keep` is 0; also infinities and NaN are dropped."""
    integer = INTEGERS[values.element_size()]
    return (values.view(integer) & (keep if integer == keep.dtype else keep.to(integer))).view(values.dtype)


def _threshold(rate: float) -> int:
    return round(rate * 2**RESOLUTION)


def _random_words(count: int) -> NDArray[np.uint64]:
    generator = _generator()
    start = torch.empty(3, dtype=torch.int64).random_().tolist()
    state: Any = {"state": np.array([*start, 1], dtype=np.uint64)}
    generator.state = {"bit_generator": "SFC64", "state": state, "has_uint32": 0, "uinteger": 0}
    return generator.random_raw(count)


@cache
def _generator() -> np.random.SFC64:
    return np.random.SFC64(0)
