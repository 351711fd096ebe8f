"""Trained tensors by name: the weights of a checkpoint, and of an adapter whose method PEFT does not have."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from qvtune.errors import ModelError
from qvtune.methods.adapted import method_of
from qvtune.methods.files import TRAINED_FILE, write_weights
from qvtune.roles.unwrap import unwrap


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter that trains, by its name in the transformers model, and the method's own state.

    The method's own state is the places of SIFT's increments, or the state of AdaLoRA's allocator.
    """
    method = method_of(model)
    return _trainable(model) | ({} if method is None else method.state(model))


def load_trained(model: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Restore in a model, adapted in the same way, what `trained_state` returned.

    Raises:
        ModelError: if it belongs to another adaptation; the text names `source`, and the model is unchanged.
    """
    method, found = method_of(model), _trainable(model)
    own = {name: value for name, value in state.items() if name in found}
    rest = {name: value for name, value in state.items() if name not in found}
    try:
        check_filled(found, own)
        if method is None:
            check_filled({}, rest)
        else:
            method.load_state(model, rest)  # this raises before it changes anything
    except ModelError as error:
        raise ModelError(f"{source}: what was trained is not what trains here: {error}") from error
    fill(found, own)


def save_trained_file(model: nn.Module, folder: Path) -> None:
    """Write `trained_state` into a folder."""
    write_weights(trained_state(model), folder / TRAINED_FILE)


def fill(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy into tensors the values of a state under the same names.

    Raises:
        ModelError: as from `check_filled`; then nothing is copied.
    """
    check_filled(tensors, state)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(state[name])


def check_filled(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Check that a state has all of these tensors, in their shapes, and no others.

    Raises:
        ModelError: if one differs; the text names the first.
    """
    for name in sorted(tensors.keys() | state.keys()):
        if name not in tensors or name not in state or tensors[name].shape != state[name].shape:
            raise ModelError(f"'{name}' is of another shape or missing.")


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in unwrap(model).named_parameters() if parameter.requires_grad}
