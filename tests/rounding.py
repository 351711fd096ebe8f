"""Whether a float32 computation differs from another by rounding alone, judged by the same computation in float64.

Of two float32 computations neither is right, and how far they are apart depends on the order of their sums, which is
another one on every processor. So both are held against float64, and so is an error that belongs to the computation and
to no processor: that of the same operations in float64, each result moved at random by up to half a unit in the last
place of float32 (Monte Carlo arithmetic: Parker, Pierce, Eggert, Computing in Science & Engineering, 2000). Sums that
cancel, as the gradient of a key's bias does, are thereby measured against their terms.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

EPS = torch.finfo(torch.float32).eps
# Ours may be off by so many times the error of one rounding in each operation, and so many times the error of the other
# float32 computation. On AVX-512, AVX2 and SSE4, libraries and kernels are off by 1 to 4 of the former: an operation
# such as a matrix product rounds more than once. Single numbers scatter; eight are five of their standard deviations.
ROUNDINGS = 8
OTHERS = 2
# Repetitions that a rounding error is the root mean square of.
DRAWS = 8

Values = Mapping[str, Tensor]


class Float64(TorchDispatchMode):
    """Keeps numbers in float64 where a model asks for float32, and moves results by up to `noise` of themselves."""

    def __init__(self, noise: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.noise = noise
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") == torch.float32 and any(x.dtype == torch.float64 for x in tensors(args)):
            kwargs["dtype"] = torch.float64
        out = func(*args, **kwargs)
        # A view holds what has been moved already.
        if self.noise and not any(returned.alias_info for returned in func._schema.returns if not is_written(returned)):
            for result in tensors(out):
                self.move(result)
        return out

    def move(self, result: Tensor) -> None:
        """Move finite numbers, and leave those that are infinite in float32."""
        if result.dtype == torch.float64 and result.numel():
            parts = torch.rand(result.shape, generator=self.generator, dtype=result.dtype)
            parts = parts.mul_(2).sub_(1).mul_(self.noise).mul_(result)
            parts[result.abs() > torch.finfo(torch.float32).max / 2] = 0
            result.add_(parts)


def is_written(returned: Any) -> bool:
    return returned.alias_info is not None and returned.alias_info.is_write


def tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in tensors(value)] if isinstance(values, (list, tuple)) else []


@dataclass(frozen=True)
class Exact:
    """What was computed in float64, and for each tensor the size (2-norm) of float32's own error."""

    values: dict[str, Tensor]
    rounding: dict[str, float]

    @classmethod
    def of(cls, compute: Callable[[], Values]) -> "Exact":
        """Compute in float64, and again with noise.

        Args:
            compute: returns tensors by name, of inputs and weights in float64; the same ones in every call.
        """
        with Float64():
            values = {name: value.detach().clone() for name, value in compute().items()}
        squares = dict.fromkeys(values, 0.0)
        for draw in range(DRAWS):
            with Float64(EPS / 2, seed=draw):
                moved = {name: value.detach().clone() for name, value in compute().items()}
            for name, value in values.items():
                squares[name] += float((moved[name] - value).norm()) ** 2 / DRAWS
        return cls(values, {name: square**0.5 for name, square in squares.items()})

    def errors(self, found: Values) -> dict[str, float]:
        """Return how far (2-norm) results in float32 are from the exact ones."""
        assert found.keys() == self.values.keys()
        return {name: float((found[name].detach().double() - exact).norm()) for name, exact in self.values.items()}

    def refuse(self, ours: Values, plain: Values) -> dict[str, str]:
        """Return by name where `ours` differs from `plain`, the usual computation, by more than rounding."""
        theirs, wrong = self.errors(plain), {}
        for name, error in self.errors(ours).items():
            allowed = ROUNDINGS * self.rounding[name] + OTHERS * theirs[name]
            if not error <= allowed:  # nor is what is not a number
                size = float(self.values[name].norm())
                wrong[name] = f"off by {error:.3g} of {size:.3g}, and {allowed:.3g} is rounding"
        return wrong

    def accept(self, ours: Values, plain: Values) -> None:
        """Fail where `refuse` finds anything."""
        assert self.refuse(ours, plain) == {}


# Of the models in tests, two or three layers of width 32 to 48: operations in a row, and terms of their sums.
OPERATIONS, TERMS = 20, 64
# A sum's error grows as the root of its terms, and those of all operations may point the same way. A tenth is seen.
SMALL_MODEL = OPERATIONS * TERMS**0.5 * EPS / 2


def assert_near(ours: Tensor | np.ndarray, theirs: Tensor | np.ndarray) -> None:
    """Fail where outputs of two small models, or of a layer, differ by more of the largest one than rounding may."""
    ours, theirs = (np.asarray(values.detach() if isinstance(values, Tensor) else values) for values in (ours, theirs))
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(float) - theirs).max() <= SMALL_MODEL * np.abs(theirs).max()


def assert_stepped(end: Tensor, start: Tensor, step: Tensor) -> None:
    """Fail unless weights went from `start` by a `step` that a small model computed, both rounded."""
    wanted = start.detach().double() + step.detach().double()
    allowed = EPS * wanted.abs().max() + SMALL_MODEL * step.abs().max()
    assert (end.detach().double() - wanted).abs().max() <= allowed
