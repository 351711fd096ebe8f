"""The state of a training apart from its weights: optimizer, schedule, random generators; tensors and plain values."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from qvtune.errors import RunError
from qvtune.methods.state import load_trained, trained_state
from qvtune.rates import NO_DECAY
from qvtune.training.checkpoint import PREFIX, Checkpoint, Checkpoints, write_state, write_tensors
from qvtune.training.step import Step

# The entries of a schedule's state that are not functions.
_OF_SCHEDULE = ("base_lrs", "last_epoch", "_step_count", "_last_lr")


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an optimizer's state: its tensors, named "7/exp_avg" with the parameter's number, and the rest."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for number, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            (tensors if isinstance(value, Tensor) else values)[f"{number}/{name}"] = value
    rates = [[group["lr"], group.get("initial_lr", group["lr"])] for group in optimizer.param_groups]
    return tensors, {"values": values, "rates": rates, "groups": group_summaries(optimizer)}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any], source: object
) -> None:
    """Restore in an optimizer what `pack_optimizer` returned.

    Raises:
        RunError: if it has other groups or rates; the text names `source`.
    """
    check_groups(plain["groups"], group_summaries(optimizer), source)
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *plain["values"].items()):
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, (rate, initial) in zip(groups, plain["rates"], strict=True):
        group.update(lr=rate, initial_lr=initial)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def pack_schedule(schedule: torch.optim.lr_scheduler.LRScheduler) -> dict[str, Any]:
    """Return the position of a schedule."""
    return {name: schedule.state_dict()[name] for name in _OF_SCHEDULE}


def unpack_schedule(schedule: torch.optim.lr_scheduler.LRScheduler, plain: dict[str, Any]) -> None:
    """Restore in a schedule what `pack_schedule` returned."""
    schedule.load_state_dict(schedule.state_dict() | plain)


def pack_random(device: torch.device) -> dict[str, Tensor]:
    """Return the state of every random generator: Python's, numpy's, torch's and the device's."""
    version, words, gauss = random.getstate()
    generator: Any = np.random.get_state()
    _, keys, position, has_gauss, cached = generator
    tensors = {
        "python": torch.tensor([version, *words]),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([position, has_gauss, *keys.tolist()]),
        "numpy_gauss": torch.tensor(cached, dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    return tensors if device.type == "cpu" else tensors | {"device": _generators(device).get_rng_state(device)}


def unpack_random(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Restore every random generator from `pack_random`'s result; on another kind of device, all but the device's."""
    version, *words = tensors["python"].tolist()
    gauss = tensors["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    position, has_gauss, *keys = tensors["numpy"].tolist()
    np.random.set_state(
        ("MT19937", np.asarray(keys, dtype=np.uint32), position, has_gauss, float(tensors["numpy_gauss"]))
    )
    torch.set_rng_state(tensors["torch"])
    if device.type != "cpu" and "device" in tensors:
        _generators(device).set_rng_state(tensors["device"], device)


def _generators(device: torch.device) -> Any:
    return torch.get_device_module(device)


def group_summaries(optimizer: torch.optim.Optimizer) -> list[list[Any]]:
    """Return name, first rate and parameters of every group; they have to be the same when a training is resumed."""
    return [
        [group_name(group, number), group.get("initial_lr", group["lr"]), _parameter_names(group)]
        for number, group in enumerate(optimizer.param_groups)
    ]


def group_name(group: dict[str, Any], number: int) -> str:
    """Return the name that `param_groups` gave, or a name by position for a group of another optimizer."""
    return group.get("name", f"group{number}")


def rates_by_group(groups: list[dict[str, Any]], rates: Sequence[float]) -> dict[str, float]:
    """Return the rate of every role under its name in the log, "lr/value" and so on, from the rates of the groups."""
    found: dict[str, float] = {}
    for number, (group, rate) in enumerate(zip(groups, rates, strict=True)):
        found.setdefault(f"lr/{group_name(group, number).removesuffix(NO_DECAY)}", rate)
    return found


def check_groups(found: list[list[Any]], wanted: list[list[Any]], source: object) -> None:
    """Check that a checkpoint has the parameter groups of this run; both are results of `group_summaries`.

    Raises:
        RunError: if it has others; the text names `source`.
    """
    if found != wanted:
        raise RunError(
            f"{source}: was trained with the parameter groups {_list_groups(found)}, and this run has "
            f"{_list_groups(wanted)}. Resume with the same roles and rates, or start in another folder."
        )


def _list_groups(groups: list[list[Any]]) -> str:
    return ", ".join(f"{name} ({len(names)} parameters at {rate:g})" for name, rate, names in groups)


def _parameter_names(group: dict[str, Any]) -> list[str]:
    return list(group.get("param_names") or (str(tuple(parameter.shape)) for parameter in group["params"]))


def save_state(
    checkpoints: Checkpoints,
    state: dict[str, Any],
    model: nn.Module,
    step: Step,
    accelerator: Accelerator,
    best: tuple[Checkpoint, str] | None,
) -> Checkpoint:
    """Write a checkpoint. Every process calls this; the first writes everything but the others' random states.

    Args:
        checkpoints: the run's.
        state: how far the run is, as values that JSON can hold, with "step".
        model: adapted.
        step: holds the optimizer, the schedule and the scale of gradients in float16.
        accelerator: this process's.
        best: the checkpoint with the best weights and the name of their file without its ending, if that is not this
            one.
    """
    random_file = f"random-{accelerator.process_index}"
    with checkpoints.writing(state["step"], accelerator) as folder:
        write_tensors(folder, random_file, pack_random(accelerator.device))
        if accelerator.is_main_process:
            tensors, plain = pack_optimizer(step.optimizer.optimizer)
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
            write_tensors(folder, "trained", trained_state(model))
            write_tensors(folder, "optimizer", tensors)
            if best is not None:
                write_tensors(folder, "best", best[0].tensors(best[1]))
            randoms = [f"random-{process}" for process in range(accelerator.num_processes)]
            parts = ["trained", *(["optimizer"] if tensors else []), *(["best"] if best else []), *randoms]
            beside = {"optimizer": plain, "schedule": pack_schedule(step.schedule), "scaler": scaler, "parts": parts}
            write_state(folder, state | beside)
    return Checkpoint(checkpoints.folder / f"{PREFIX}{state['step']}")


def load_state(checkpoint: Checkpoint, model: nn.Module, step: Step, accelerator: Accelerator) -> dict[str, Any]:
    """Restore in a training what `save_state` wrote, and return the state that was saved.

    Raises:
        RunError: if the checkpoint has other parameter groups or rates.
        ModelError: if it belongs to another adaptation.
    """
    state = checkpoint.state()
    unpack_optimizer(step.optimizer.optimizer, checkpoint.tensors("optimizer"), state["optimizer"], checkpoint.path)
    load_trained(model, checkpoint.tensors("trained"), checkpoint.path)
    unpack_schedule(step.schedule, state["schedule"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    own = checkpoint.tensors(f"random-{accelerator.process_index}")
    if own:  # after a run of fewer processes, the further ones start new dropout
        unpack_random(own, accelerator.device)
    return state
