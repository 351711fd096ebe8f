"""Activations that compute their slope together with their value, so that the backward pass is one product."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers import activations

from qvtune.fast.cpu.native.library import call, has_kernels


class FastActivation:
    """For an activation module: computes with the kernel that it names."""

    kernel: str

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of every element."""
        if has_kernels(input):
            return Activated.apply(input, self.kernel)
        return super().forward(input)  # type: ignore[misc]


class FastGelu(FastActivation, activations.GELUActivation):
    """x Phi(x), with the error function to 1.5e-7."""

    qvtune_plain, kernel = activations.GELUActivation, "erf_gelu"


class FastNewGelu(FastActivation, activations.NewGELUActivation):
    """GELU by the hyperbolic tangent."""

    qvtune_plain, kernel = activations.NewGELUActivation, "tanh_gelu"


class FastGeluTanh(FastActivation, activations.GELUTanh):
    """GELU by the hyperbolic tangent."""

    qvtune_plain, kernel = activations.GELUTanh, "tanh_gelu"


class FastSilu(FastActivation, nn.SiLU):
    """x / (1 + exp(-x))."""

    qvtune_plain, kernel = nn.SiLU, "silu"


class FastSiluActivation(FastActivation, activations.SiLUActivation):
    """x / (1 + exp(-x))."""

    qvtune_plain, kernel = activations.SiLUActivation, "silu"


ACTIVATIONS: dict[type, type] = {
    kind.qvtune_plain: kind for kind in (FastGelu, FastNewGelu, FastGeluTanh, FastSilu, FastSiluActivation)
}


class Activated(Function):
    """f(x); only f'(x) is saved for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: str) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        slope = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        call(kernel, x.dtype, x, out, slope, x.numel())
        ctx.save_for_backward(slope)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        out = torch.empty_like(slope)
        call("multiply", slope.dtype, gradient.contiguous(), slope, out, slope.numel())
        return out, None
