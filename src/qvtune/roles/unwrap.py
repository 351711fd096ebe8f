"""Reach the transformers model, and the plain layer, below what other libraries wrap around them."""

from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model below `torch.compile`, data parallel wrappers and PEFT."""
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # torch.compile
        elif isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()  # PEFT
        else:
            return model


def base_layer(module: nn.Module) -> nn.Module:
    """Return the layer that a PEFT adapter layer wraps, or the module itself."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module
