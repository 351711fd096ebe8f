"""Take parametrizations of torch's off a module."""

from typing import Any

from torch import nn
from torch.nn.utils import parametrize


def original_weight(module: nn.Module) -> nn.Parameter:
    """Return the weight below the parametrization of a module."""
    return module.get_parameter("parametrizations.weight.original")


def remove_parametrization(module: Any, *, merge: bool) -> None:
    """Give a module a plain weight again: as its parametrization computes it, or as it was before.

    A module whose weight has none stays as it is.
    """
    if not parametrize.is_parametrized(module):
        return
    weight = original_weight(module)
    if merge:
        weight.data = module.weight.detach()
    # Not by torch's own function, which changes the class, and copies of the model share that.
    module.__class__ = module.__class__.__base__
    del module._modules["parametrizations"]
    # In front of the bias again, where a state dict and an optimizer had it.
    module._parameters = {"weight": weight, **module._parameters}
