"""Cheap random bits for dropout on a CPU, where torch draws every sample separately.

Every mask has a key of 64 bits, drawn from torch's global CPU generator. So `torch.manual_seed` seeds the masks, and a
restored state of that generator gives the same masks, for example on resuming or in recomputed activations.
Word i of a key is the (i + 1)-th output of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014) with that seed, and decides over four neighbours in a row. So a mask need not be saved: it can
be recomputed from its key, in any order and by any number of threads.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvtune.fast.cpu.native.library import has_kernels, random_bits

# Bits that decide over one element: a rate is rounded to a multiple of 2 ** -15, with an error below 1.6e-5.
RESOLUTION = 15
# Elements that share a word, 16 bits each.
PER_WORD = 4

# The integer type for each size of floating-point numbers, in bytes.
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_GOLDEN = 0x9E3779B97F4A7C15
# How many words numpy makes at once, so that they stay in a core's cache.
_BLOCK = 1 << 15


class Drop(NamedTuple):
    """A mask in the kernels' form: its key, how many of 2 ** RESOLUTION are dropped, and the factor for the others."""

    key: int
    below: int
    scale: float


# Drops nothing.
NOTHING = Drop(0, 0, 1.0)


def draw(rate: float) -> Drop:
    """Draw a mask that drops elements with probability `rate`, rounded to `realized`."""
    if not is_drawn(rate):
        return NOTHING
    key = int(torch.empty((), dtype=torch.int64).random_())
    return Drop(key, _threshold(rate), 1 / (1 - realized(rate)))


def keep_mask(shape: torch.Size, drop: Drop) -> Tensor:
    """Return which elements a mask keeps.

    Args:
        shape: shape of the mask; every row, along the last dimension, starts with a new word.
        drop: the mask.

    Returns:
        int16 of `shape`: -1 (all bits set) for an element that is kept, and 0 for one that is dropped.
    """
    columns = shape[-1]
    per_row = -(-columns // PER_WORD)
    bits = _bits(drop.key, shape.numel() // columns * per_row).view(*shape[:-1], PER_WORD * per_row)[..., :columns]
    # 15 random bits minus the number of dropped values are negative for dropped elements; the sign then fills all 16
    # bits.
    bits = bits.bitwise_and(2**RESOLUTION - 1)
    return bits.sub_(drop.below).bitwise_right_shift_(RESOLUTION).bitwise_not_()


def realized(rate: float) -> float:
    """Return the actual dropout rate for a rate that was asked for."""
    return _threshold(rate) / 2**RESOLUTION


def is_drawn(rate: float) -> bool:
    """Whether a rate needs random bits: it is not so close to 0 or 1 that it is rounded to that."""
    return 0 < realized(rate) < 1


def apply_mask(values: Tensor, keep: Tensor) -> Tensor:
    """Return floating-point `values` with exact zeros where `keep` is 0, also in place of infinities and NaN."""
    integer = INTEGERS[values.element_size()]
    out = torch.empty_like(values)  # no view, which a caller could not change in place
    torch.bitwise_and(values.view(integer), keep if integer == keep.dtype else keep.to(integer), out=out.view(integer))
    return out


def random_words(key: int, count: int) -> NDArray[np.uint64]:
    """Return the first words of a key, made by numpy."""
    words = np.empty(count, dtype=np.uint64)
    for start in range(0, count, _BLOCK):
        z = words[start : start + _BLOCK]
        z[:] = np.arange(start + 1, start + 1 + len(z), dtype=np.uint64)
        z *= np.uint64(_GOLDEN)
        z += np.uint64(key)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z ^= z >> np.uint64(shift)
            z *= np.uint64(factor)
        z ^= z >> np.uint64(31)
    return words


def _bits(key: int, words: int) -> Tensor:
    """Return 16-bit pieces of words."""
    if has_kernels(torch.empty(0)):
        return random_bits(key, words)
    return torch.from_numpy(random_words(key, words).view(np.int16))


def _threshold(rate: float) -> int:
    return round(rate * 2**RESOLUTION)
