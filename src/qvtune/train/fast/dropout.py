"""Dropout with cheap random bits."""

from typing import Any

from torch import Tensor, nn
from torch.autograd import Function

from qvtune.train.fast.bits import apply_mask, is_drawn, keep_mask, realized


class FastDropout(nn.Dropout):
    """`nn.Dropout` that draws from `keep_mask` on a CPU; elsewhere torch's own is fast."""

    qvtune_plain = nn.Dropout

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements in training, and scale the others by 1 / (1 - rate)."""
        if self.training and input.device.type == "cpu" and is_drawn(self.p):
            return Dropped.apply(input, self.p)
        return super().forward(input)


class Dropped(Function):
    """Keeps elements with probability 1 - rate, scaled so that their mean stays."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rate: float) -> Tensor:
        keep = keep_mask(values.shape, rate)
        ctx.save_for_backward(keep)
        ctx.scale = 1 / (1 - realized(rate))
        return apply_mask(values.contiguous(), keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return apply_mask(gradient.contiguous(), keep).mul_(ctx.scale), None
