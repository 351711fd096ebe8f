"""Choose the device for every command. A model is placed there before anything else."""

import os
from typing import Any, TypeVar

import torch
from torch import nn

from qvtune.errors import ConfigError, nearest

DEVICES = ("auto", "cpu", "cuda", "mps")

CPU = torch.device("cpu")

M = TypeVar("M", bound=nn.Module)


def choose_device(wanted: str = "auto") -> torch.device:
    """Return the device of this process.

    If there are several of one kind, a process started by `torchrun` or `accelerate launch` gets the one with the
    process's number on its machine, LOCAL_RANK. Any other process gets the current device, the first in
    CUDA_VISIBLE_DEVICES.

    Args:
        wanted: "cpu", "cuda", "mps", or "auto" for the accelerator that torch finds, or the CPU if it finds none.

    Raises:
        ConfigError: for another name, or if there is no such device.
    """
    if wanted not in DEVICES:
        known = ", ".join(DEVICES)
        raise ConfigError(f"--device: unknown device '{wanted}'.{nearest(wanted, DEVICES)} Known: {known}.")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if wanted == "cpu" or (wanted == "auto" and found is None):
        return CPU
    if found is None or wanted not in ("auto", found.type):
        raise ConfigError(f"--device {wanted}: {_why_missing(wanted)} Give --device auto for what there is.")
    if found.type == "mps":
        return found  # the only device has no number
    here = torch.accelerator.device_count()
    number = int(os.environ.get("LOCAL_RANK", torch.accelerator.current_device_index()))
    if number >= here:
        raise ConfigError(
            f"this is process {number} of its machine, counted from 0, and there are {here} devices of the kind "
            f"{found.type}: each process takes one. Start fewer processes, or give --device cpu."
        )
    return torch.device(found.type, number)


def place(model: M, device: torch.device) -> M:
    """Move a model to a device, and return it.

    A model that transformers has spread over several devices stays there. So does a model whose weights FSDP or
    DeepSpeed will shard, since one device need not hold all of them.
    """
    is_spread = getattr(model, "hf_device_map", None) is not None
    return model if is_spread or launched_with("FSDP", "DEEPSPEED") else model.to(device)


def launched_with(*names: str) -> str | None:
    """Return the first of these of Accelerate's ways to shard a model that the launch asks for, or None."""
    # `accelerate launch` tells this to the processes that it starts.
    asked = (name for name in names if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("true", "1"))
    return next(asked, None)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; if they are on several, that of the first."""
    return next(model.parameters()).device


def describe_device(device: torch.device) -> dict[str, Any]:
    """Return the kind and name of a device; for a GPU also its memory, compute capability and CUDA version."""
    if device.type != "cuda":
        return {"kind": device.type, "name": device.type, "count": 1}
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "kind": device.type,
        "name": torch.cuda.get_device_name(device),
        "count": torch.cuda.device_count(),
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
        "capability": f"{major}.{minor}",
        "cuda": torch.version.cuda or torch.version.hip,
    }


def _why_missing(wanted: str) -> str:
    is_built = torch.backends.cuda.is_built() if wanted == "cuda" else torch.backends.mps.is_built()
    if not is_built:
        return f"this torch, {torch.__version__}, is built without it; docs/gpu.md says how to install one with it."
    return "no such device was found."
