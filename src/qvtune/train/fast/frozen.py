"""Frozen linear layers in bfloat16 on a CPU, with their weights in the order that the processor reads them."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd import Function

# Weights reordered for the product forward and for its input's gradient. They can be made again from the module's own
# weight, so a copy of a model makes its own.
_packed: WeakKeyDictionary[nn.Module, tuple[Tensor, Tensor, Tensor]] = WeakKeyDictionary()


class FastFrozenLinear(nn.Linear):
    """`nn.Linear` that does not reorder its weight anew in every product."""

    qvtune_plain = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """Return W x + b, in bfloat16."""
        if can_pack(self.weight, input):
            return Product.apply(input.to(torch.bfloat16), self.bias, *packed_weights(self))
        return super().forward(input)


def computing_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which a product with `x` is computed: autocast's, or its own."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


def can_pack(weight: Tensor, x: Tensor) -> bool:
    """Whether oneDNN has an order of its own for a weight in the product with `x`."""
    return (
        weight.dtype == computing_dtype(x) == torch.bfloat16
        and weight.device.type == "cpu"
        and not weight.requires_grad
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def packed_weights(module: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return W and its transpose in oneDNN's order, made once for each value of the weight."""
    weight = module.weight.data
    found = _packed.get(module)
    if found is None or found[0].data_ptr() != weight.data_ptr():
        reorder: Callable[..., Tensor] = torch.ops.mkldnn._reorder_linear_weight
        found = (weight, reorder(weight), reorder(weight.T.contiguous()))
        _packed[module] = found
    return found[1], found[2]


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x times a packed weight plus a bias, without a gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class Product(Function):
    """x, b or None, packed W and its transpose -> W x + b; a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, packed: Tensor, turned: Tensor) -> Tensor:
        ctx.turned = turned
        return multiply(x, packed, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return multiply(gradient, ctx.turned) if ctx.needs_input_grad[0] else None, None, None, None
