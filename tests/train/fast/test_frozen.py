"""Frozen layers with packed weights beside plain ones, bit for bit."""

import copy

import pytest
import torch
from torch import nn

from qvtune.train.fast.frozen import FastFrozenLinear, can_pack

needs_bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 products"
)


def make_layer(*, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 80, bias=bias).bfloat16().requires_grad_(False)


def output_and_gradient(layer: nn.Linear, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.bfloat16, requires_grad=True)
    out = layer(x)
    out.backward(torch.randn_like(out))
    return out.detach(), x.grad


@needs_bf16
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 48), (2, 7, 48), (1, 1, 48)])
def test_products_are_near_the_plain_ones(bias: bool, shape: tuple[int, ...]) -> None:
    layer = make_layer(bias=bias)
    expected = output_and_gradient(layer, shape)
    layer.__class__ = FastFrozenLinear
    for ours, theirs in zip(output_and_gradient(layer, shape), expected, strict=True):
        assert torch.allclose(ours.float(), theirs.float(), rtol=2**-7, atol=2**-7)


@needs_bf16
def test_another_weight_is_packed_anew() -> None:
    layer, x = make_layer(), torch.randn(3, 48, dtype=torch.bfloat16)
    layer.__class__ = FastFrozenLinear
    before = layer(x)
    twin = copy.deepcopy(layer)
    twin.weight.data = -layer.weight.data
    assert torch.equal(layer(x), before)
    assert torch.allclose((twin(x) - layer.bias).float(), -(before - layer.bias).float(), atol=0.02)


def test_other_types_and_trained_weights_are_left_to_torch() -> None:
    x = torch.randn(3, 48)
    layer = nn.Linear(48, 80)
    expected = layer(x)
    layer.__class__ = FastFrozenLinear
    assert torch.equal(layer(x), expected)
    assert not can_pack(layer.weight, x)
    assert not can_pack(make_layer().requires_grad_(True).weight, x.bfloat16())
