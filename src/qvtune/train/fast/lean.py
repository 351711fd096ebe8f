"""A training loop that does not walk through the whole model twice a step."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def few_walks(model: nn.Module) -> Iterator[None]:
    """Let `model.train` act when the mode changes alone, and `model.zero_grad` on what trains alone.

    transformers calls both in every step, and each visits some hundred modules of which most are frozen. For a loop
    that changes modes through `model` alone and neither freezes nor unfreezes on the way.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    modes: list[bool] = []

    def train(mode: bool = True) -> nn.Module:
        if modes != [mode]:
            type(model).train(model, mode)
            modes[:] = [mode]
        return model

    def zero_grad(set_to_none: bool = True) -> None:
        for parameter in trained:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    model.__dict__.update(train=train, zero_grad=zero_grad)
    try:
        yield
    finally:
        del model.__dict__["train"], model.__dict__["zero_grad"]
