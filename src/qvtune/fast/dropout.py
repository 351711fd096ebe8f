"""Dropout with cheap random bits."""

from typing import Any

from torch import Tensor, empty_like, nn
from torch.autograd import Function

from qvtune.fast.bits import Drop, apply_mask, draw, is_drawn, keep_mask
from qvtune.fast.cpu.native.library import call, has_kernels


class FastDropout(nn.Dropout):
    """`nn.Dropout` that draws its own masks on a CPU; elsewhere torch's dropout is fast."""

    qvtune_plain = nn.Dropout

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements in training, and scale the others by 1 / (1 - rate)."""
        if self.training and input.device.type == "cpu" and input.numel() and is_drawn(self.p):
            return Dropped.apply(input, draw(self.p))
        return super().forward(input)


class Dropped(Function):
    """Keeps elements with probability 1 - rate, scaled so that the mean stays; nothing is saved for backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, drop: Drop) -> Tensor:
        ctx.drop = drop
        return drop_elements(values, drop)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return drop_elements(gradient, ctx.drop), None


def drop_elements(values: Tensor, drop: Drop) -> Tensor:
    """Return `values` with dropped elements set to zero and the others scaled."""
    values = values.contiguous()
    if has_kernels(values):
        out = empty_like(values)
        call("drop", values.dtype, values, out, values.numel() // values.shape[-1], values.shape[-1], *drop)
        return out
    return apply_mask(values, keep_mask(values.shape, drop)).mul_(drop.scale)
