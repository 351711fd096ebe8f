"""Find the transformers model, and the plain layer, inside the wrappers of other libraries."""

from typing import Any

from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile`, data parallel wrappers and PEFT."""
    current: Any = unwrap_wrappers(model)
    return unwrap(current.get_base_model()) if hasattr(current, "get_base_model") else current


def unwrap_wrappers(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile` and data parallel wrappers: PEFT's if there is one."""
    below = unwrap_once(model)
    return model if below is None else unwrap_wrappers(below)


def unwrap_once(model: Any) -> nn.Module | None:
    """Return the model directly inside `torch.compile` or a data parallel wrapper, or None if there is no wrapper."""
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):
        return model._orig_mod  # torch.compile
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return model.module
    if any(kind.__name__ == "DeepSpeedEngine" for kind in type(model).__mro__):  # without importing DeepSpeed
        return model.module
    return None


def base_layer(module: Any) -> Any:
    """Return the layer that a PEFT adapter layer wraps, or the module itself."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module
