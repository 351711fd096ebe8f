"""Linear layers, with their weight in either orientation and with any adapter around them."""

from torch import nn
from transformers.pytorch_utils import Conv1D

from qvtune.roles.unwrap import base_layer


def is_linear(module: nn.Module | None) -> bool:
    """Whether a module is a linear layer, also transformers' `Conv1D` or one inside a PEFT adapter."""
    return module is not None and isinstance(base_layer(module), (nn.Linear, Conv1D))


def linear_size(module: nn.Module) -> tuple[int, int]:
    """Return (rows, inputs) of a linear layer, for a weight in either orientation."""
    linear = base_layer(module)
    rows, inputs = reversed(linear.weight.shape) if isinstance(linear, Conv1D) else linear.weight.shape
    return int(rows), int(inputs)
