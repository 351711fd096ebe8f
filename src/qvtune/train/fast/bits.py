"""Cheap random bits for dropout on a CPU, where torch draws every sample apart and on one thread."""

import torch
from torch import Tensor

# Bits that decide over one element: a rate is a multiple of 2 ** -15, off by less than 1.6e-5.
RESOLUTION = 15

# The multipliers of a mixing function of 32 bits, "lowbias32", found by Chris Wellons' search for least bias.
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)
_SHIFTS = (16, 15, 16)

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def keep_mask(shape: torch.Size, rate: float) -> Tensor:
    """Draw which elements dropout keeps.

    Every 32 bits decide over two elements. They are a hash of their number and of two 32-bit keys, which come from
    torch's global CPU generator. So masks are seeded by `torch.manual_seed`, come back when that generator's state
    does, as on resuming a checkpoint or computing activations a second time, and do not depend on each other or on
    the number of threads.

    Args:
        shape: of the mask.
        rate: probability of dropping an element, rounded to `realized`.

    Returns:
        int16 of `shape`, -1 (all bits set) where an element is kept and 0 where it is dropped.
    """
    count = shape.numel()
    words = _random_words(-(-count // 2))
    bits = words.view(torch.int16)[:count].view(shape)
    # 15 random bits minus the number of them that keep are negative for those; the sign then fills all 16 bits.
    keeping = 2**RESOLUTION - _threshold(rate)
    return bits.bitwise_and_(2**RESOLUTION - 1).sub_(keeping).bitwise_right_shift_(RESOLUTION)


def realized(rate: float) -> float:
    """Return the rate at which elements are dropped for a rate that was asked for."""
    return _threshold(rate) / 2**RESOLUTION


def apply_mask(values: Tensor, keep: Tensor) -> Tensor:
    """Return floating-point `values` with exact zeros where `keep` is 0; also infinities and NaN are dropped."""
    integer = _INTEGERS[values.element_size()]
    return (values.view(integer) & (keep if integer == keep.dtype else keep.to(integer))).view(values.dtype)


def _threshold(rate: float) -> int:
    return round(rate * 2**RESOLUTION)


def _random_words(count: int) -> Tensor:
    first, second = torch.empty(2, dtype=torch.int32).random_(-(2**31), 2**31).tolist()
    words = torch.arange(count, dtype=torch.int32).add_(first)
    shifted = torch.empty_like(words)
    for shift, multiplier, key in zip(_SHIFTS, (*_MULTIPLIERS, 1), (second, 0, 0), strict=True):
        torch.bitwise_right_shift(words, shift, out=shifted)
        words ^= shifted.bitwise_and_(2 ** (32 - shift) - 1)  # the shift of a signed integer copies its sign
        if multiplier != 1:
            words *= multiplier
        if key:
            words += key
    return words
