"""Numbers that have to stay finite: the loss, what trains, and the outputs."""

import torch
from torch import Tensor, nn

from qvtune.methods.state import trained_state


class NotFinite(ArithmeticError):
    """A computed value is no longer finite; the text says which."""


def check_training(loss: Tensor, model: nn.Module) -> None:
    """Check the summed loss, (), and every parameter that trains. It waits for the device.

    Raises:
        NotFinite: if one is not finite.
    """
    if not torch.isfinite(loss):
        raise NotFinite("the loss")
    for name, value in trained_state(model).items():
        if not torch.isfinite(value).all():
            raise NotFinite(f"the parameter {name}")
