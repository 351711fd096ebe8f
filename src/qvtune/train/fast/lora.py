"""LoRA's forward and backward as one function: its products ordered for least work, and little kept for backward."""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd import Function

from qvtune.train.fast.bits import apply_mask, is_drawn, keep_mask, realized
from qvtune.train.fast.frozen import FastFrozenLinear, can_pack, computing_dtype, multiply, packed_weights


class FastLora(Linear):
    """PEFT's LoRA of a linear layer, computed by `Adapted` where it is the plain kind with one adapter."""

    qvtune_plain = Linear

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return W x + b + (alpha / rank) B A dropout(x)."""
        name = self._single_adapter()
        if name is None or args or kwargs or not x.is_floating_point():
            return super().forward(x, *args, **kwargs)
        base: Any = self.base_layer
        dropout = self.lora_dropout[name]
        rate = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        packed = packed_weights(base) if can_pack(base.weight, x) else None
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return Adapted.apply(x, base.weight, base.bias, a, b, self.scaling[name], rate, packed)

    def _single_adapter(self) -> str | None:
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name = self.active_adapters[0]
        # The exact class: a quantised one, or one that another library has changed, computes something else.
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
        packed: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        dtype = computing_dtype(x)
        inputs = x.reshape(-1, x.shape[-1]).to(dtype)
        weight, a_cast, b_cast = weight.to(dtype), a.to(dtype), b.to(dtype)
        keep = None
        dropped = inputs
        if rate:
            keep, dropped, rate = _drop(inputs, rate)
        ctx.scaling = scaling / (1 - rate)
        down = nn.functional.linear(dropped, a_cast)
        bias = None if bias is None else bias.to(dtype)
        out = nn.functional.linear(inputs, weight, bias) if packed is None else multiply(inputs, packed[0], bias)
        out.addmm_(down, b_cast.T, alpha=ctx.scaling)
        ctx.save_for_backward(inputs, weight, a_cast, b_cast, down, keep)
        ctx.given = x.shape, x.dtype, a.dtype, b.dtype
        ctx.turned = None if packed is None else packed[1]
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, a, b, down, keep = ctx.saved_tensors
        shape, dtype, a_dtype, b_dtype = ctx.given
        gradient = gradient.reshape(-1, gradient.shape[-1]).to(inputs.dtype)
        scaled = (gradient @ b).mul_(ctx.scaling)
        dropped = inputs if keep is None else _masked(inputs, keep)
        grad_a = (scaled.T @ dropped).to(a_dtype)
        grad_b = (gradient.T @ down).to(b_dtype).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = gradient @ weight if ctx.turned is None else multiply(gradient, ctx.turned)
            if keep is None:
                grad_x.addmm_(scaled, a)
            else:
                grad_x += _masked(scaled @ a, keep)
            grad_x = grad_x.view(shape).to(dtype)
        return grad_x, None, None, grad_a, grad_b, None, None, None


def _drop(inputs: Tensor, rate: float) -> tuple[Tensor, Tensor, float]:
    """Return what is kept, the inputs with the others zero and not scaled, and the rate at which they are dropped."""
    if inputs.device.type == "cpu" and is_drawn(rate):
        keep = keep_mask(inputs.shape, rate)
        return keep, apply_mask(inputs.contiguous(), keep), realized(rate)
    keep = torch.empty_like(inputs, dtype=torch.bool).bernoulli_(1 - rate)
    return keep, inputs * keep, rate


def _masked(values: Tensor, keep: Tensor) -> Tensor:
    return values * keep if keep.dtype == torch.bool else apply_mask(values.contiguous(), keep)
