"""Dropout with cheap bits: its mean, variance and gradient."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from qvtune.train.fast.bits import realized
from qvtune.train.fast.dropout import FastDropout

Z = stats.norm.isf(1e-6 / 2)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_mean_and_variance_are_those_of_dropout(rate: float) -> None:
    torch.manual_seed(0)
    out = FastDropout(rate)(torch.ones(1 << 20)).double().numpy()
    odds = realized(rate) / (1 - realized(rate))
    assert abs(out.mean() - 1) < Z * np.sqrt(odds / out.size)
    # What is 0 or 1 / (1 - p) has the variance p / (1 - p); that of a sample deviates by the fourth moment.
    spread = ((out - 1) ** 4).mean() - odds**2
    assert abs(out.var() - odds) < Z * np.sqrt(spread / out.size)


def test_gradient_is_of_the_same_elements() -> None:
    torch.manual_seed(1)
    x = torch.randn(64, 33, requires_grad=True)
    out = FastDropout(0.3)(x)
    gradient = torch.randn_like(out)
    out.backward(gradient)
    scale = 1 / (1 - realized(0.3))
    kept = out.detach() != 0
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(out[kept].detach(), x[kept].detach() * scale)
    assert torch.equal(x.grad, torch.where(kept, gradient * scale, 0))


def test_columns_of_a_transposed_input_stay_where_they_are() -> None:
    x = torch.randn(5, 7).T
    out = FastDropout(0.5)(x)
    assert torch.equal(out[out != 0], 1 / (1 - 0.5) * x[out != 0])


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_at_the_ends_are_torch_s(rate: float) -> None:
    x = torch.randn(4, 4)
    assert torch.equal(FastDropout(rate)(x), nn.Dropout(rate)(x))


def test_evaluation_drops_nothing() -> None:
    x = torch.randn(4, 4)
    assert torch.equal(FastDropout(0.5).eval()(x), x)
