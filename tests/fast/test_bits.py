"""Random bits of dropout. Every statistical test raises a false alarm once in a million runs, and seeds are fixed."""

import numpy as np
import pytest
import torch
from scipy import stats

from qvtune.fast.bits import NOTHING, RESOLUTION, apply_mask, draw, keep_mask, random_words, realized
from qvtune.fast.cpu.native.library import random_bits

FALSE_ALARM = 1e-6
Z = stats.norm.isf(FALSE_ALARM / 2)


def dropped(shape: tuple[int, ...], rate: float) -> np.ndarray:
    return (keep_mask(torch.Size(shape), draw(rate)) == 0).numpy()


def z_of_rate(mask: np.ndarray, rate: float) -> float:
    return float((mask.mean() - rate) / np.sqrt(rate * (1 - rate) / mask.size))


def z_of_correlation(a: np.ndarray, b: np.ndarray, rate: float) -> float:
    return float(((a - rate) * (b - rate)).mean() / (rate * (1 - rate)) * np.sqrt(a.size))


@pytest.mark.parametrize("rate", [1e-3, 0.1, 1 / 3, 0.5, 0.9])
def test_rate(rate: float) -> None:
    torch.manual_seed(1)
    assert abs(realized(rate) - rate) <= 2**-RESOLUTION / 2
    assert abs(z_of_rate(dropped((2000, 1001), rate), realized(rate))) < Z
    # The same test notices a rate that is off by a fiftieth.
    assert abs(z_of_rate(dropped((2000, 1001), rate * 1.02), realized(rate))) > Z or rate < 0.1


def test_only_two_values() -> None:
    assert set(np.unique(keep_mask(torch.Size((999,)), draw(0.1)).numpy())) == {0, -1}


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 32, 384, 4096, 65536])
def test_elements_do_not_depend_on_each_other(lag: int) -> None:
    torch.manual_seed(2)
    mask = dropped((1 << 21,), 0.1)
    assert abs(z_of_correlation(mask[lag:], mask[:-lag], realized(0.1))) < Z


def test_counts_per_row_and_column_vary_as_a_binomial_does() -> None:
    torch.manual_seed(3)
    mask, rate = dropped((1024, 2048), 0.1), realized(0.1)
    for axis in (0, 1):
        counts, trials = mask.sum(axis=axis), mask.shape[axis]
        statistic = ((counts - trials * rate) ** 2).sum() / (trials * rate * (1 - rate))
        assert FALSE_ALARM / 2 < stats.chi2.sf(statistic, len(counts)) < 1 - FALSE_ALARM / 2


def test_masks_of_successive_calls_do_not_depend_on_each_other() -> None:
    torch.manual_seed(4)
    masks = [dropped((1 << 18,), 0.1) for _ in range(8)]
    pairs = [z_of_correlation(a, b, realized(0.1)) for i, a in enumerate(masks) for b in masks[:i]]
    assert max(map(abs, pairs)) < stats.norm.isf(FALSE_ALARM / 2 / len(pairs))
    assert abs(z_of_correlation(masks[0], masks[0], realized(0.1))) > Z, "the test must notice a mask used twice"


def test_every_bit_of_a_word_is_even() -> None:
    torch.manual_seed(5)
    key = int(torch.empty((), dtype=torch.int64).random_())
    words = random_words(key, 1 << 19).view(np.uint32)
    for bit in range(32):
        ones = ((words >> bit) & 1).mean()
        assert abs(ones - 0.5) * 2 * np.sqrt(words.size) < stats.norm.isf(FALSE_ALARM / 64), bit


def test_words_are_those_of_splitmix64() -> None:
    # From the generator's published test vectors, for the seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert random_words(1234567, 4).tolist() == published


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("count", [1, 7, 1024, 100_001])
def test_kernels_make_the_same_words(count: int) -> None:
    key = 2**63 - 12345
    assert np.array_equal(random_bits(key, count).numpy().view(np.uint64), random_words(key, count))


def test_masks_are_the_same_with_kernels_and_without(either: str) -> None:
    torch.manual_seed(8)
    mask = dropped((3, 5, 13), 0.4)
    torch.manual_seed(8)
    key = int(torch.empty((), dtype=torch.int64).random_())
    # Every row begins with a word of its own: 4 words of 4 elements for 13.
    pieces = random_words(key, 15 * 4).view(np.uint16).reshape(3, 5, 16)[..., :13]
    assert np.array_equal(mask, (pieces & 0x7FFF) < round(0.4 * 2**15))


def test_nothing_is_drawn_for_rates_at_the_ends() -> None:
    before = torch.get_rng_state()
    assert draw(0.0) == draw(1e-7) == draw(1.0) == NOTHING
    assert torch.equal(before, torch.get_rng_state())


def test_seed_and_state_bring_masks_back() -> None:
    torch.manual_seed(6)
    first = dropped((100,), 0.3)
    state = torch.get_rng_state()
    second = dropped((100,), 0.3)
    torch.set_rng_state(state)
    assert np.array_equal(second, dropped((100,), 0.3))
    assert not np.array_equal(first, second)
    torch.manual_seed(6)
    assert np.array_equal(first, dropped((100,), 0.3))


def test_threads_do_not_change_a_mask() -> None:
    torch.manual_seed(7)
    alone = dropped((1 << 20,), 0.1)
    torch.set_num_threads(2)
    try:
        torch.manual_seed(7)
        assert np.array_equal(alone, dropped((1 << 20,), 0.1))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dropped_values_are_zero_and_others_untouched(dtype: torch.dtype) -> None:
    values = torch.randn(50, dtype=dtype)
    values[3], values[4] = float("nan"), float("inf")
    keep = torch.full((50,), -1, dtype=torch.int16)
    keep[:10] = 0
    kept = apply_mask(values, keep)
    assert torch.equal(kept[:10], torch.zeros(10, dtype=dtype))
    assert torch.equal(kept[10:], values[10:])
