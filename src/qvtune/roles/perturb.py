"""Changes of a projection's output, with which the probe measures its role."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qvtune.roles.layouts import Rows

# An output counts as scaled by a factor within this relative error (bfloat16 has 8 bits).
LINEAR = 1e-2

Change = Callable[[Tensor], Tensor]


def on_rows(change: Change, rows: Rows) -> Change:
    """Apply a change to some rows of an output alone."""

    def changed(out: Tensor) -> Tensor:
        if len(rows) == out.shape[-1]:
            return change(out)
        index = torch.tensor(rows.indices(), device=out.device)
        return out.index_copy(-1, index, change(out.index_select(-1, index)))

    return changed


def first_call_only(change: Change) -> Callable[..., Tensor | None]:
    """Return a forward hook that changes the output of the first call."""
    # DeBERTa passes its position embeddings through the same projections in a second call.
    done: list[bool] = []

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if done:
            return None
        done.append(True)
        return change(output)

    return hook


def noise(strength: float, seed: int = 2) -> Change:
    """Add noise of this strength, in units of the output's root mean square."""

    def change(out: Tensor) -> Tensor:
        drawn = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
        return out + strength * scale_of(out) * drawn.to(out)

    return change


def scale_of(out: Tensor) -> Tensor:
    """Return the root mean square of an output."""
    # At least one, so that a newly initialised model with tiny projections still moves.
    return out.float().pow(2).mean().sqrt().clamp(min=1.0).to(out.dtype)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs are the same within `LINEAR`, and not zero."""
    return bool((a - b).abs().max() <= LINEAR * b.abs().max()) and bool(b.abs().max() > 0)
