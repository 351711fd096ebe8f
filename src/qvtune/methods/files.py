"""The files that hold an adapter's tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qvtune.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

# PEFT's.
WEIGHTS_FILE = "adapter_model.safetensors"
# The file for the trained tensors of a method that PEFT does not have.
TRAINED_FILE = "trained.safetensors"
# What to do if an adapter is damaged.
SAVE_AGAIN = "Put it back from a copy, or save the adapter again."


def write_weights(weights: "Mapping[str, Tensor]", file: Path) -> None:
    """Write tensors by name; the folder is created if it does not exist."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(plain, file, metadata={"format": "pt"})


def read_weights(file: Path) -> "dict[str, Tensor]":
    """Return the tensors of a file by name.

    Raises:
        ModelError: if it cannot be read, or one of them is not finite.
    """
    import torch
    from safetensors.torch import load_file

    try:
        weights = load_file(file)
    except Exception as error:  # from safetensors or the system
        raise ModelError(f"{file}: the adapter cannot be read: {str(error).splitlines()[0]}. {SAVE_AGAIN}") from error
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise ModelError(f"{file}: '{name}' holds numbers that are not finite. {SAVE_AGAIN}")
    return weights


def other_weights(folder: Path, problem: str) -> ModelError:
    """Return the error for an adapter whose tensors do not match its `qvtune.json`."""
    return ModelError(
        f"{folder}: the adapter's weights are not those of what it says it adapted: {problem} {SAVE_AGAIN}"
    )
