"""LoRA's forward and backward as one function, with products in the cheapest order and little saved for backward."""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd import Function

from qvtune.fast.bits import apply_mask, draw, is_drawn, keep_mask
from qvtune.fast.cpu.native.library import call, has_kernels
from qvtune.fast.frozen import FastFrozenLinear, Packed, can_pack, computing_dtype, packed_weights, shaped

# Up to this rank the kernels are faster than products of the library, which need a copy of the input with dropout.
SMALL = 32
# Ranks that the kernels compute together.
_BLOCK = 8


class FastLora(Linear):
    """PEFT's LoRA of a linear layer; `Adapted` computes it if it is the plain kind with one adapter."""

    qvtune_plain = Linear

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return W x + b + (alpha / rank) B A dropout(x)."""
        name = self._single_adapter()
        if name is None or args or kwargs or not x.is_floating_point():
            return super().forward(x, *args, **kwargs)
        base: Any = self.base_layer
        dropout = self.lora_dropout[name]
        rate = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        packed = packed_weights(base) if type(base) is FastFrozenLinear and can_pack(base.weight, x) else None
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return Adapted.apply(x, base.weight, base.bias, a, b, self.scaling[name], rate, packed)

    def _single_adapter(self) -> str | None:
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name = self.active_adapters[0]
        # The exact class, since a quantised layer, or one changed by another library, computes something else.
        if type(self.base_layer) not in (nn.Linear, FastFrozenLinear) or self.base_layer.weight.requires_grad:
            return None
        plain = name in self.lora_A and name not in self.lora_variant and self.lora_B[name].bias is None
        return name if plain else None


class Adapted(Function):
    """x, W (outputs, inputs), b or None, A (rank, inputs), B (outputs, rank) -> W x + b + scaling B A dropout(x)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        rate: float,
        packed: Packed | None,
    ) -> Tensor:
        dtype = computing_dtype(x)
        inputs = x.reshape(-1, x.shape[-1]).to(dtype).contiguous()
        weight = weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        out = nn.functional.linear(inputs, weight, bias) if packed is None else packed.forward.multiply(inputs, bias)
        ctx.by_kernel = len(a) <= SMALL and a.dtype == b.dtype == torch.float32 and has_kernels(inputs)
        if ctx.by_kernel:
            ctx.drop = draw(rate)
            ctx.factor = scaling * ctx.drop.scale
            a, b, keep = a.contiguous(), b.contiguous(), None
            down = a.new_empty(len(inputs), -(-len(a) // _BLOCK) * _BLOCK)
            call("lora", dtype, inputs, a, b, out, down, *_sizes(inputs, a, b), ctx.factor, *ctx.drop)
        else:
            keep, dropped, ctx.factor = _dropped(inputs, rate, scaling)
            ctx.given = a.dtype, b.dtype
            a, b = a.to(dtype), b.to(dtype)
            down = nn.functional.linear(dropped, a)
            out.addmm_(down, b.T, alpha=ctx.factor)
        ctx.save_for_backward(inputs, weight, a, b, down, keep)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.packed = packed
        return shaped(out, x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, a, b, down, keep = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1]).to(inputs.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = gradient @ weight if ctx.packed is None else ctx.packed.backward.multiply(gradient)
        if ctx.by_kernel:
            grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
            call(
                "lora_backward", inputs.dtype, gradient.contiguous(), inputs, a, b, down, grad_x, grad_a, grad_b,
                *_sizes(inputs, a, b), ctx.factor, *ctx.drop,
            )  # fmt: skip
        else:
            scaled = (gradient @ b).mul_(ctx.factor)
            grad_a = (scaled.T @ (inputs if keep is None else _masked(inputs, keep))).to(ctx.given[0])
            grad_b = (gradient.T @ down).to(ctx.given[1]).mul_(ctx.factor)
            if grad_x is not None and keep is None:
                grad_x.addmm_(scaled, a)
            elif grad_x is not None:
                grad_x += _masked(scaled @ a, keep)
        if grad_x is not None:
            grad_x = grad_x.view(ctx.shape).to(ctx.dtype)
        return grad_x, None, None, grad_a, grad_b, None, None, None


def _sizes(inputs: Tensor, a: Tensor, b: Tensor) -> tuple[int, int, int, int]:
    return len(inputs), inputs.shape[-1], len(b), len(a)


def _dropped(inputs: Tensor, rate: float, scaling: float) -> tuple[Tensor | None, Tensor, float]:
    """Return the mask, the unscaled inputs with zeros where it drops, and `scaling` corrected for the missing scale."""
    if not rate:
        return None, inputs, scaling
    if inputs.device.type == "cpu" and is_drawn(rate):
        drop = draw(rate)
        keep = keep_mask(inputs.shape, drop)
        return keep, apply_mask(inputs.contiguous(), keep), scaling * drop.scale
    keep = torch.empty_like(inputs, dtype=torch.bool).bernoulli_(1 - rate)
    return keep, inputs * keep, scaling / (1 - rate)


def _masked(values: Tensor, keep: Tensor) -> Tensor:
    return values * keep if keep.dtype == torch.bool else apply_mask(values.contiguous(), keep)
