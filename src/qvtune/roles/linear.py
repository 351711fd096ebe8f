"""Linear layers, whichever way round they keep their weight and whatever adapter wraps them."""

from torch import nn
from transformers.pytorch_utils import Conv1D

from qvtune.roles.unwrap import base_layer


def is_linear(module: nn.Module | None) -> bool:
    """Whether a module is a linear layer, also of transformers' `Conv1D` and below a PEFT adapter."""
    return module is not None and isinstance(base_layer(module), (nn.Linear, Conv1D))


def linear_size(module: nn.Module) -> tuple[int, int]:
    """Return (rows, inputs) of a linear layer, whichever way round it keeps its weight."""
    linear = base_layer(module)
    rows, inputs = reversed(linear.weight.shape) if isinstance(linear, Conv1D) else linear.weight.shape
    return int(rows), int(inputs)
