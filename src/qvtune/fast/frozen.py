"""Frozen linear layers in bfloat16 on a CPU, with their weights in the order in which the processor reads them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

from qvtune.fast.cpu.native.library import call, has_tiles
from qvtune.fast.state import own_state
from qvtune.processor import instruction_set

# AMX multiplies this many rows and columns at a time.
_TILES = 32
# Of more rows, our product on AMX takes longer than oneDNN's, which reorders the weight first.
MOST_ROWS = 1024


class FastFrozenLinear(nn.Linear):
    """`nn.Linear` that does not reorder its weight again in every product."""

    qvtune_plain = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """Return W x + b, in bfloat16."""
        if can_pack(self.weight, input):
            return Product.apply(input.to(torch.bfloat16), self.bias, packed_weights(self))
        return super().forward(input)


class Packed(NamedTuple):
    """A weight for the forward product, and its transpose for the product with the gradient of the output."""

    forward: "Tiles | Reordered"
    backward: "Tiles | Reordered"


@dataclass(frozen=True)
class Tiles:
    """A weight (o, d) as (o / 16, d / 32, 16, 16, 2), for the kernel that uses AMX.

    oneDNN compiles a program for every number of rows, and uses one thread for a few hundred rows or columns.
    """

    weight: Tensor
    outputs: int

    @classmethod
    def of(cls, weight: Tensor) -> "Tiles":
        """Pack a weight whose sides are multiples of 32."""
        o, d = weight.shape
        return cls(weight.view(o // 16, 16, d // 32, 16, 2).permute(0, 2, 3, 1, 4).contiguous(), o)

    def multiply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x (rows, d) times the weight's transpose plus a bias, without a gradient."""
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.outputs)
        rows, d = x.numel() // x.shape[-1], x.shape[-1]
        call("product", x.dtype, x, self.weight, bias, out, rows, d, self.outputs)
        return out


@dataclass(frozen=True)
class Reordered:
    """A weight in oneDNN's own order."""

    weight: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> "Reordered":
        """Reorder a weight."""
        reorder: Callable[..., Tensor] = torch.ops.mkldnn._reorder_linear_weight
        return cls(reorder(weight))

    def multiply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x (rows, d) times the weight's transpose plus a bias, without a gradient."""
        rows = x.reshape(-1, x.shape[-1])
        out = torch.ops.mkldnn._linear_pointwise(rows, self.weight, bias, "none", [], "")
        return shaped(out, x.shape)


def shaped(out: Tensor, like: torch.Size) -> Tensor:
    """Return rows (n, d) that nobody else holds as (..., d), with the first sizes of `like`.

    Autograd takes the result for no view, as with the output of `torch.nn.functional.linear`: a view that a `Function`
    returns could not be changed in place, and models and PEFT do so.
    """
    return torch.ops.aten._unsafe_view(out, [*like[:-1], out.shape[-1]])


def computing_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which a product with `x` is computed: autocast's, or that of `x`."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


def has_bf16_products() -> bool:
    """Whether oneDNN has bfloat16 products on this processor and may use them."""
    return instruction_set() in ("native", "avx512") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def can_pack(weight: Tensor, x: Tensor) -> bool:
    """Whether a weight can be packed in a special order for the product with `x`, and it pays."""
    return (
        weight.dtype == computing_dtype(x) == torch.bfloat16
        and weight.device.type == "cpu"
        and not weight.requires_grad
        and torch.backends.mkldnn.is_available()
        and has_bf16_products()
        and (not has_tiles() or x.numel() <= MOST_ROWS * x.shape[-1])
    )


def packed_weights(module: nn.Linear) -> Packed:
    """Return a module's weight in such an order; it is made once for each value of the weight."""
    weight, state = module.weight.data, own_state(module)
    if state.packed is None or state.packed[0].data_ptr() != weight.data_ptr():
        fits = has_tiles() and not any(side % _TILES for side in weight.shape)
        kind = Tiles if fits else Reordered
        state.packed = (weight, Packed(kind.of(weight.contiguous()), kind.of(weight.T.contiguous())))
    return state.packed[1]


class Product(Function):
    """x, b or None, packed W -> W x + b; only x gets a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, packed: Packed) -> Tensor:
        ctx.packed = packed
        return packed.forward.multiply(x, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.packed.backward.multiply(gradient) if ctx.needs_input_grad[0] else None, None, None
