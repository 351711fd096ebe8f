"""Seeds: one place, and the numbers that torch gives for them."""

import pytest
import torch

from qvtune.training.seeds import STREAMS, seed_torch, stream_seed


@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_the_numbers_are_those_of_torch(seed: int) -> None:
    torch.manual_seed(seed)
    expected = torch.rand(5), torch.randn(5)
    seed_torch(seed, torch.device("cpu"))
    assert torch.equal(torch.rand(5), expected[0])
    assert torch.equal(torch.randn(5), expected[1])


def test_every_stream_has_its_own_seed() -> None:
    assert len({stream_seed(seed, stream) for seed in range(3) for stream in STREAMS}) == 3 * len(STREAMS)
