"""Parameters that FSDP2 or DeepSpeed's ZeRO has divided among processes, and how to get them whole."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(model: nn.Module) -> bool:
    """Whether a trained parameter of a model is divided among processes."""
    return any(_is_part(parameter) for parameter in model.parameters() if parameter.requires_grad)


def dimensions(parameter: Tensor) -> int:
    """Return how many dimensions a parameter has as a whole; what ZeRO 3 leaves in a process is flat."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def whole(tensor: Any) -> Tensor:
    """Return the whole of a tensor; of one that FSDP2 divided, every process has to call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def writes_here() -> bool:
    """Whether this process writes what all processes have gathered."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not ready or torch.distributed.get_rank() == 0


@contextmanager
def whole_parameters(model: nn.Module) -> Iterator[None]:
    """Let every trained parameter of a model be whole, to be read; every process has to enter.

    No forward pass may run inside.
    """
    with ExitStack() as stack:
        module: Any
        for module in model.modules():
            if hasattr(module, "reshard") and hasattr(module, "unshard"):
                module.reshard()  # after an evaluation, FSDP2 has some of them whole until the next backward pass
        divided = [p for p in model.parameters() if p.requires_grad and hasattr(p, "ds_id")]
        if divided:
            import deepspeed

            stack.enter_context(deepspeed.zero.GatheredParameters(divided))
        gathered: dict[int, nn.Parameter] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter.requires_grad and hasattr(parameter, "full_tensor"):
                    if id(parameter) not in gathered:
                        gathered[id(parameter)] = nn.Parameter(whole(parameter.detach()))
                    stack.callback(module._parameters.__setitem__, name, parameter)
                    module._parameters[name] = gathered[id(parameter)]
        yield


def _is_part(parameter: Tensor) -> bool:
    return hasattr(parameter, "full_tensor") or hasattr(parameter, "ds_id")
