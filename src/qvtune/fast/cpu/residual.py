"""The end of a post-norm residual block in one pass: norm(dropout(dense(x)) + residual)."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from qvtune.fast.bits import Drop, draw
from qvtune.fast.cpu.native.library import call, has_kernels
from qvtune.fast.swap import combined

# Up to this difference of an output, relative to the largest output, a block counts as having this form.
SAME = 1e-5


class ResidualNorm:
    """For `SelfOutput` and `Output` of BERT and similar models."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """Return the normed sum of the block's projection, with dropout, and its input."""
        block: Any = self
        norm, x = block.LayerNorm, block.dense(hidden_states)
        residual = input_tensor.to(x.dtype)
        if not has_kernels(x, residual) or norm.weight.requires_grad or norm.bias.requires_grad:
            return norm(block.dropout(x) + input_tensor)
        drop = draw(block.dropout.p if block.dropout.training else 0.0)
        return Normed.apply(x, residual, norm.weight.float(), norm.bias.float(), norm.eps, drop)


def shorten_residual_blocks(model: nn.Module) -> int:
    """Let every block of that form end in one pass, and return their number.

    A block has this form if it has the parts, takes the arguments, and gives the right outputs on random input.
    """
    found = [module for module in model.modules() if _has_parts(module) and _is_such_a_block(module)]
    for module in found:
        module.__class__ = combined(ResidualNorm, type(module))  # type: ignore[arg-type]
    return len(found)


class Normed(Function):
    """norm(drop(x) + residual) with a frozen norm; the normed rows and 1 / deviation of each are saved for backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, gain: Tensor, shift: Tensor, epsilon: float, drop: Drop
    ) -> Tensor:
        x, residual = x.contiguous(), residual.contiguous()
        out = torch.empty_like(x)
        ctx.sizes, ctx.drop = (x.numel() // x.shape[-1], x.shape[-1]), drop
        normed = inverse = None
        if any(ctx.needs_input_grad):
            normed, inverse = torch.empty_like(x), gain.new_empty(ctx.sizes[0])
        call("residual_norm", x.dtype, x, residual, gain, shift, epsilon, out, normed, inverse, *ctx.sizes, *drop)
        ctx.save_for_backward(normed, inverse, gain)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normed, inverse, gain = ctx.saved_tensors
        of_x, of_residual = (torch.empty_like(normed) if wanted else None for wanted in ctx.needs_input_grad[:2])
        call(
            "residual_norm_backward", normed.dtype, gradient.contiguous(), normed, inverse, gain, of_x, of_residual,
            *ctx.sizes, *ctx.drop,
        )  # fmt: skip
        return of_x, of_residual, None, None, None, None


def _has_parts(module: nn.Module) -> bool:
    if isinstance(module, ResidualNorm):
        return False
    norm = getattr(module, "LayerNorm", None)
    parts = {name for name, _ in module.named_children()}
    return (
        parts == {"dense", "dropout", "LayerNorm"}
        and isinstance(module.dropout, nn.Dropout)
        and type(norm) is nn.LayerNorm
        and norm.weight is not None
        and norm.bias is not None
        and len(norm.normalized_shape) == 1
        and list(inspect.signature(type(module).forward).parameters) == ["self", "hidden_states", "input_tensor"]
    )


def _is_such_a_block(module: Any) -> bool:
    """Whether a block computes the function that its parts suggest."""
    weight = next(module.dense.parameters())
    generator = torch.Generator().manual_seed(0)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            width, inner = module.LayerNorm.normalized_shape[0], module.dense.in_features
            x, residual = (torch.randn(2, 3, n, generator=generator).to(weight) for n in (inner, width))
            expected = module.LayerNorm(module.dense(x) + residual)
            return bool((module(x, residual) - expected).abs().max() <= SAME * expected.abs().max())
    except Exception:  # a block of another form may raise anything
        return False
    finally:
        module.train(was_training)
