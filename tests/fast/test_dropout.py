"""Dropout with cheap bits: its mean, variance and gradient."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from qvtune.fast.bits import realized
from qvtune.fast.dropout import FastDropout

Z = stats.norm.isf(1e-6 / 2)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_mean_and_variance_are_those_of_dropout(rate: float, either: str) -> None:
    torch.manual_seed(0)
    out = FastDropout(rate)(torch.ones(1 << 20)).double().numpy()
    odds = realized(rate) / (1 - realized(rate))
    assert abs(out.mean() - 1) < Z * np.sqrt(odds / out.size)
    # What is 0 or 1 / (1 - p) has the variance p / (1 - p); that of a sample deviates by the fourth moment.
    spread = ((out - 1) ** 4).mean() - odds**2
    assert abs(out.var() - odds) < Z * np.sqrt(spread / out.size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("width", [1, 33, 5000])
def test_gradient_is_of_the_same_elements(dtype: torch.dtype, width: int, either: str) -> None:
    torch.manual_seed(1)
    x = torch.randn(64, width).abs().add(0.1).to(dtype).requires_grad_()  # without zeros, which look dropped
    out = FastDropout(0.3)(x)
    gradient = torch.randn_like(out)
    out.backward(gradient)
    scale = torch.tensor(1 / (1 - realized(0.3)), dtype=torch.float32 if dtype != torch.float64 else dtype)
    kept = out.detach() != 0
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(out[kept].detach(), (x[kept].detach().to(scale.dtype) * scale).to(dtype))
    assert torch.equal(x.grad, torch.where(kept, gradient.to(scale.dtype) * scale, 0).to(dtype))


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


def test_nothing_is_kept_for_backward(either: str) -> None:
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        FastDropout(0.3)(torch.randn(8, 8, requires_grad=True))
    assert not kept


@pytest.mark.usefixtures("with_kernels")
def test_what_is_dropped_is_zero_whatever_it_was() -> None:
    x = torch.full((100, 100), float("nan"))
    out = FastDropout(0.5)(x)
    assert set(out.nan_to_num(7).unique().tolist()) == {0.0, 7.0}
