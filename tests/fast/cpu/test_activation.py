"""Activations beside their formulas in float64."""

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from qvtune.fast.cpu.activation import ACTIVATIONS

NAMES = ["gelu", "gelu_new", "gelu_pytorch_tanh", "silu"]
RANGE = torch.cat([torch.linspace(-12, 12, 10_001), torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])])


def make(name: str) -> nn.Module:
    module = ACT2FN[name]
    module.__class__ = ACTIVATIONS[type(module)]
    return module


@pytest.mark.parametrize("name", NAMES)
def test_value_and_slope(name: str, either: str) -> None:
    for dtype, bound in ((torch.float32, 2e-6), (torch.bfloat16, 2**-7)):
        if either == "torch" and dtype == torch.bfloat16:
            continue  # torch rounds between the operations
        x = RANGE.clone().to(dtype).requires_grad_()
        exact = x.detach().double().requires_grad_()
        out, expected = make(name)(x), ACT2FN[name](exact)
        out.sum().backward()
        expected.sum().backward()
        scale = 1 + expected.detach().abs()
        assert ((out.double() - expected).abs() / scale).max() < bound
        assert (x.grad.double() - exact.grad).abs().max() < bound


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("name", NAMES)
def test_kept_for_backward_is_the_slope_alone(name: str) -> None:
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        make(name)(torch.randn(3, 5, requires_grad=True))
    assert [x.shape for x in kept] == [(3, 5)]


@pytest.mark.usefixtures("with_kernels")
def test_not_a_number_stays_one() -> None:
    x = torch.tensor([float("nan"), 1.0])
    for name in NAMES:
        assert make(name)(x).isnan().tolist() == [True, False], name


def test_other_types_are_left_to_torch() -> None:
    x = torch.randn(7, dtype=torch.float64)
    for name in NAMES:
        assert torch.equal(make(name)(x), ACT2FN[name](x))
