"""Reach the transformers model, and the plain layer, below what other libraries wrap around them."""

from typing import Any

from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model below `torch.compile`, data parallel wrappers and PEFT."""
    current: Any = model
    while True:
        if (below := unwrap_once(current)) is not None:
            current = below
        elif hasattr(current, "get_base_model"):
            current = current.get_base_model()  # PEFT
        else:
            return current


def unwrap_once(model: Any) -> nn.Module | None:
    """Return the model one layer below `torch.compile` or a data parallel wrapper, or None where there is none."""
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):
        return model._orig_mod  # torch.compile
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return model.module
    return None


def base_layer(module: Any) -> Any:
    """Return the layer that a PEFT adapter layer wraps, or the module itself."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module
