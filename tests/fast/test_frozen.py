"""Frozen layers with packed weights beside plain ones."""

import copy

import pytest
import torch
from torch import nn

from qvtune.fast.cpu.native.library import has_tiles
from qvtune.fast.frozen import (
    MOST_ROWS,
    FastFrozenLinear,
    Reordered,
    Tiles,
    can_pack,
    has_bf16_products,
    packed_weights,
)

needs_bf16 = pytest.mark.skipif(not has_bf16_products(), reason="this processor has no bfloat16 products")


def make_layer(*, bias: bool = True, inputs: int = 48, outputs: int = 80) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias).bfloat16().requires_grad_(False)


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


@pytest.mark.skipif(not has_tiles(), reason="this processor has no AMX, or its system does not allow it")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 200])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (96, 64), (1536, 384)])
def test_tiles_multiply_as_float64_does(inputs: int, outputs: int, rows: int, bias: bool) -> None:
    layer = make_layer(bias=bias, inputs=inputs, outputs=outputs)
    layer.__class__ = FastFrozenLinear
    assert isinstance(packed_weights(layer).forward, Tiles)
    out, gradient = output_and_gradient(layer, (rows, inputs))
    torch.manual_seed(1)
    x, given = torch.randn(rows, inputs, dtype=torch.bfloat16).double(), torch.randn(rows, outputs).bfloat16().double()
    expected = x @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    for ours, theirs in ((out, expected), (gradient, given @ layer.weight.double())):
        assert (ours.double() - theirs).norm() < 2**-8 * theirs.norm()


@pytest.mark.skipif(not has_tiles(), reason="this processor has no AMX, or its system does not allow it")
def test_two_threads_multiply_as_one_does() -> None:
    layer, x = make_layer(inputs=96, outputs=64), torch.randn(1000, 96, dtype=torch.bfloat16)
    layer.__class__ = FastFrozenLinear
    alone = layer(x)
    torch.set_num_threads(2)
    try:
        assert torch.equal(layer(x), alone)
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(not has_tiles(), reason="this processor has no AMX, or its system does not allow it")
def test_many_rows_are_left_to_onednn() -> None:
    layer, x = make_layer(inputs=96, outputs=64), torch.randn(MOST_ROWS + 1, 96, dtype=torch.bfloat16)
    expected = layer(x)
    layer.__class__ = FastFrozenLinear
    assert can_pack(layer.weight, x[1:])
    assert not can_pack(layer.weight, x)
    assert not can_pack(layer.weight, x.view(1, *x.shape))
    assert torch.equal(layer(x), expected)


@needs_bf16
def test_sides_that_fill_no_tile_are_left_to_onednn() -> None:
    layer = make_layer()
    assert isinstance(packed_weights(layer).forward, Reordered)
