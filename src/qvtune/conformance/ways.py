"""The ways to train in many processes: how each wraps a model and makes its optimizer, in the right order."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qvtune.errors import ConfigError, nearest
from qvtune.roles.unwrap import unwrap


@dataclass(frozen=True)
class Setup:
    """What a wrapping function may need beside the model.

    Attributes:
        groups: makes the parameter groups of a model: `setup.groups(model)`.
        device: of this process.
        micro_batch: examples of a process in a pass.
        accumulation: passes in a step.
        max_grad_norm: the norm to which an engine clips; where the model is no engine, the suite clips.
    """

    groups: Callable[[nn.Module], list[dict[str, Any]]]
    device: torch.device
    micro_batch: int
    accumulation: int
    max_grad_norm: float


Wrap = Callable[[nn.Module, Setup], tuple[nn.Module, Any]]


def wrap_nothing(model: nn.Module, setup: Setup) -> tuple[nn.Module, Any]:
    """Train in one process."""
    return model, torch.optim.AdamW(setup.groups(model))


def wrap_ddp(model: nn.Module, setup: Setup) -> tuple[nn.Module, Any]:
    """Copy the model to every process. Groups are made before or after."""
    ids = [setup.device] if setup.device.type == "cuda" else None
    wrapped = nn.parallel.DistributedDataParallel(model.to(setup.device), device_ids=ids)
    return wrapped, torch.optim.AdamW(setup.groups(wrapped))


def wrap_fsdp2(model: nn.Module, setup: Setup) -> tuple[nn.Module, Any]:
    """Divide every parameter. `fully_shard` replaces the parameters, so groups are made after it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(setup.device.type, (torch.distributed.get_world_size(),))
    model.to(setup.device)
    for layer in unwrap(model).bert.encoder.layer:  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(setup.groups(model))


def wrap_zero(stage: int) -> Wrap:
    """Return the wrapping function of a stage of DeepSpeed's ZeRO. Groups are made before `deepspeed.initialize`."""

    def wrap(model: nn.Module, setup: Setup) -> tuple[nn.Module, Any]:
        if setup.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        optimizer = torch.optim.AdamW(setup.groups(model))
        config = {
            "train_micro_batch_size_per_gpu": setup.micro_batch,
            "gradient_accumulation_steps": setup.accumulation,
            "gradient_clipping": setup.max_grad_norm,
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        engine, wrapped, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        return engine, wrapped

    return wrap


@dataclass(frozen=True)
class Way:
    """A column of the table.

    Attributes:
        title: as it is printed.
        wrap: the wrapping function.
        needs: a package without which it cannot run.
    """

    title: str
    wrap: Wrap
    needs: str | None = None

    def obstacle(self) -> str | None:
        """Say why it cannot run here, or return None."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        return None


WAYS = {
    "ddp": Way("DDP", wrap_ddp),
    "fsdp2": Way("FSDP2", wrap_fsdp2),
    **{f"zero{stage}": Way(f"ZeRO {stage}", wrap_zero(stage), "deepspeed") for stage in (1, 2, 3)},
}
ALL = ",".join(WAYS)


def parse_ways(text: str) -> list[str]:
    """Return the names in a list with commas.

    Raises:
        ConfigError: for an unknown or no name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in WAYS:
            raise ConfigError(f"--ways: unknown way '{name}'.{nearest(name, WAYS)} Known: {', '.join(WAYS)}.")
    if not names:
        raise ConfigError(f"--ways: names no way. Known: {', '.join(WAYS)}.")
    return list(dict.fromkeys(names))


def find_wrapper(name: str) -> Way:
    """Return the way of a user's own wrapping function, MODULE:FUNCTION.

    Raises:
        ConfigError: if there is none of this name.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--wrapper {name}: {error}. Give MODULE:FUNCTION, of a module that Python finds from here."
        ) from error
    if not callable(found):
        raise ConfigError(f"--wrapper {name}: is no function. Give MODULE:FUNCTION.")
    return Way(function, found)
