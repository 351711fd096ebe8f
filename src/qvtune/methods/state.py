"""What trains, as tensors by name: the weights of a checkpoint, and of an adapter that PEFT does not have."""

from pathlib import Path

import torch
from torch import Tensor, nn

from qvtune.errors import ModelError
from qvtune.methods.ranks import allocation_state, is_allocation, load_allocation
from qvtune.roles.unwrap import unwrap, unwrap_wrappers


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter that trains, by its name in the transformers model, and what says where it belongs.

    Those are the places of SIFT's increments and the state of AdaLoRA's allocator.
    """
    state: dict[str, Tensor] = dict(_tensors(model))
    return state | (allocation_state(model) if _shares_ranks(model) else {})


def load_trained(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Give a model, adapted in the same way, what `trained_state` returned.

    Raises:
        ModelError: if it is of another adaptation; the text names `source`.
    """
    own = {name: value for name, value in state.items() if not is_allocation(name)}
    found = dict(_tensors(model))
    for name in sorted(own.keys() | found.keys()):
        if name not in own or name not in found or own[name].shape != found[name].shape:
            raise ModelError(
                f"{source}: what was trained is not what trains here: '{name}' is of another shape or missing."
            )
    with torch.no_grad():
        for name, tensor in found.items():
            tensor.copy_(own[name])
    if _shares_ranks(model):
        load_allocation(model, state)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    inner = unwrap(model)
    places = [
        (name, buffer) for name, buffer in inner.named_buffers() if name.endswith("parametrizations.weight.0.indices")
    ]
    return [(name, p) for name, p in inner.named_parameters() if p.requires_grad] + places


def _shares_ranks(model: nn.Module) -> bool:
    return hasattr(getattr(unwrap_wrappers(model), "base_model", None), "rankallocator")
