"""AdaLoRA's part in the training loop: its budget, its regulariser and its state (Zhang et al. 2023)."""

from typing import Any

import torch
from torch import Tensor, nn

from qvtune.methods.configs import schedule
from qvtune.roles.unwrap import unwrap_wrappers

_ADAPTER = "default"
_MEAN, _SPREAD, _KEPT = "importance/", "uncertainty/", "kept/"


def plan_steps(model: nn.Module, total_steps: int) -> None:
    """Share the ranks out over so many steps.

    Raises:
        AdaptError: for fewer than two.
    """
    vars(_config(model)).update(schedule(total_steps))


def allocate(model: nn.Module, step: int) -> None:
    """Measure every triplet, and prune down to the budget of this step, counted from 1.

    To be called after the optimizer's step and before gradients are cleared.
    """
    tuner: Any = unwrap_wrappers(model).base_model
    tuner.update_and_allocate(step)


def orthogonality(model: nn.Module) -> Tensor:
    """Return what AdaLoRA adds to the loss: γ times the mean of ||A A' - I|| and ||B' B - I|| (eq. 4)."""
    inner: Any = unwrap_wrappers(model).base_model
    distances = []
    for name, p in inner.named_parameters():
        if f"lora_A.{_ADAPTER}" in name or f"lora_B.{_ADAPTER}" in name:
            square = p @ p.T if "lora_A" in name else p.T @ p
            distances.append(torch.linalg.norm(square - torch.eye(len(square), dtype=p.dtype, device=p.device)))
    return _config(model).orth_reg_weight * torch.stack(distances).mean()


def kept_ranks(model: nn.Module) -> dict[str, list[bool]]:
    """Return which triplets of each adapted module are left, by its name; nothing before the first pruning."""
    pattern = _config(model).rank_pattern or {}
    return {name.partition(".lora_E")[0]: kept for name, kept in pattern.items()}


def allocation_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the allocator's state as tensors by name."""
    tuner: Any = unwrap_wrappers(model).base_model
    allocator = tuner.rankallocator
    state = {f"{_MEAN}{name}": value for name, value in allocator.exp_avg_ipt.items()}
    state |= {f"{_SPREAD}{name}": value for name, value in allocator.exp_avg_unc.items()}
    return state | {f"{_KEPT}{name}": torch.tensor(kept) for name, kept in kept_ranks(model).items()}


def load_allocation(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give the allocator what `allocation_state` returned; other names in `state` are passed over."""
    tuner: Any = unwrap_wrappers(model).base_model
    allocator, device = tuner.rankallocator, next(model.parameters()).device

    def named(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

    allocator.exp_avg_ipt = {name: value.to(device) for name, value in named(_MEAN).items()}
    allocator.exp_avg_unc = {name: value.to(device) for name, value in named(_SPREAD).items()}
    allocator.ipt = {name: torch.zeros_like(value) for name, value in allocator.exp_avg_ipt.items()}
    pattern = {f"{name}.lora_E.{_ADAPTER}": kept.tolist() for name, kept in named(_KEPT).items()}
    _config(model).rank_pattern = pattern or None


def is_allocation(name: str) -> bool:
    """Whether a tensor of a checkpoint is the allocator's."""
    return name.startswith((_MEAN, _SPREAD, _KEPT))


def _config(model: nn.Module) -> Any:
    peft_model: Any = unwrap_wrappers(model)
    return peft_model.peft_config[_ADAPTER]
