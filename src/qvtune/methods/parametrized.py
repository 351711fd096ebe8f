"""Remove torch's parametrizations from a module."""

from typing import Any

from torch import nn
from torch.nn.utils import parametrize


def original_weight(module: nn.Module) -> nn.Parameter:
    """Return the original weight under a module's parametrization."""
    return module.get_parameter("parametrizations.weight.original")


def remove_parametrization(module: Any, *, merge: bool) -> None:
    """Give a module a plain weight again: the one that its parametrization computes, or the original one.

    A module without a parametrized weight stays as it is.
    """
    if not parametrize.is_parametrized(module):
        return
    weight = original_weight(module)
    if merge:
        weight.data = module.weight.detach()
    # torch's own function is not used: it changes the class, which copies of the model share.
    module.__class__ = module.__class__.__base__
    del module._modules["parametrizations"]
    # In front of the bias again, as it was in state dicts and optimizers.
    module._parameters = {"weight": weight, **module._parameters}
