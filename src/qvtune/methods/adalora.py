"""AdaLoRA: LoRA whose ranks are allocated during training (Zhang et al. 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qvtune.errors import AdaptError, ModelError
from qvtune.methods.method import Adaptation
from qvtune.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

# The first rank, as a multiple of the average final rank (section 4).
INITIAL_RANK = 1.5

_ADAPTER = "default"
_MEAN, _SPREAD, _KEPT = "importance/", "uncertainty/", "kept/"


@dataclass(frozen=True)
class AdaLora(PeftMethod):
    """Factors of a singular value decomposition; the least important triplets are pruned."""

    checkpoint: Literal["peft", "model", "trained"] = "trained"
    steps: bool = True
    shares_out: bool = True
    penalised_by_forward: bool = True

    def config(self, common: dict[str, Any], adaptation: Adaptation, total_steps: int | None) -> Any:
        """Return PEFT's configuration for a training that ends with an average rank of `rank`."""
        from peft import AdaLoraConfig

        assert adaptation.rank is not None
        assert total_steps is not None, "checked before"
        options: dict[str, Any] = {
            "target_r": adaptation.rank,
            "init_r": int(adaptation.rank * INITIAL_RANK + 0.5),
            "lora_alpha": adaptation.alpha,
            "lora_dropout": adaptation.dropout,
        }
        return AdaLoraConfig(**common, **options, **_schedule(total_steps))

    def apply(self, inner: "nn.Module", adaptation: Adaptation, total_steps: int | None) -> "nn.Module":
        """Add the triplets. PEFT makes the count of a module's ranks a parameter, which does not train."""
        adapted = super().apply(inner, adaptation, total_steps)
        for name, parameter in adapted.named_parameters():
            if ".ranknum." in name:  # it would train if PEFT had moved it to another device
                parameter.requires_grad_(False)
        return adapted

    def begin(self, model: "nn.Module", total_steps: int) -> None:
        """Plan the ranks over the steps."""
        plan_steps(model, total_steps)

    def penalty(self, model: "nn.Module") -> "Tensor":
        """Return the penalty that keeps the factors orthogonal."""
        return orthogonality(model)

    def after_step(self, model: "nn.Module", step: int) -> None:
        """Measure the triplets, and prune."""
        allocate(model, step)

    def state(self, model: "nn.Module") -> "dict[str, Tensor]":
        """Return the allocator's state."""
        import torch

        allocator = _allocator(model)
        state = {f"{_MEAN}{name}": value for name, value in allocator.exp_avg_ipt.items()}
        state |= {f"{_SPREAD}{name}": value for name, value in allocator.exp_avg_unc.items()}
        return state | {f"{_KEPT}{name}": torch.tensor(kept) for name, kept in kept_ranks(model).items()}

    def load_state(self, model: "nn.Module", state: "Mapping[str, Tensor]") -> None:
        """Restore the allocator's state; it may come from another step, with fewer or more triplets."""
        import torch

        for name in sorted(state):
            if not name.startswith((_MEAN, _SPREAD, _KEPT)):
                raise ModelError(f"'{name}' is of another shape or missing.")
        allocator, device = _allocator(model), next(model.parameters()).device

        def named(prefix: str) -> "dict[str, Tensor]":
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

        allocator.exp_avg_ipt = {name: value.to(device) for name, value in named(_MEAN).items()}
        allocator.exp_avg_unc = {name: value.to(device) for name, value in named(_SPREAD).items()}
        allocator.ipt = {name: torch.zeros_like(value) for name, value in allocator.exp_avg_ipt.items()}
        pattern = {f"{name}.lora_E.{_ADAPTER}": kept.tolist() for name, kept in named(_KEPT).items()}
        _config(model).rank_pattern = pattern or None

    def sizes(self, adapted: "nn.Module") -> dict[str, int]:
        """Do not count what is pruned."""
        from qvtune.roles.unwrap import unwrap

        kept, found = kept_ranks(adapted), {}
        for name, parameter in unwrap(adapted).named_parameters():
            triplets = kept.get(name.partition(".lora_")[0])
            if triplets is not None and parameter.requires_grad:
                found[name] = parameter.numel() // len(triplets) * sum(triplets)
        return found

    def load(self, adapted: "nn.Module", adaptation: Adaptation, weights: "dict[str, Tensor]", folder: Path) -> None:
        """Load the remaining factors into PEFT's layers."""
        from peft import PeftConfig

        _config(adapted).rank_pattern = PeftConfig.from_pretrained(str(folder)).rank_pattern
        super().load(adapted, adaptation, weights, folder)


def plan_steps(model: "nn.Module", total_steps: int) -> None:
    """Plan the ranks over `total_steps` steps.

    Raises:
        AdaptError: for fewer than two.
    """
    vars(_config(model)).update(_schedule(total_steps))


def allocate(model: "nn.Module", step: int) -> None:
    """Measure every triplet, and prune to the budget of this step, counted from 1.

    Call it after the optimizer's step and before the gradients are cleared.
    """
    from qvtune.roles.unwrap import unwrap_wrappers

    tuner: Any = unwrap_wrappers(model).base_model
    tuner.update_and_allocate(step)


def orthogonality(model: "nn.Module") -> "Tensor":
    """Return AdaLoRA's penalty for the loss: γ times the mean of ||A A' - I|| and ||B' B - I|| (eq. 4)."""
    import torch

    from qvtune.roles.unwrap import unwrap_wrappers

    inner: Any = unwrap_wrappers(model).base_model
    distances = []
    for name, p in inner.named_parameters():
        if f"lora_A.{_ADAPTER}" in name or f"lora_B.{_ADAPTER}" in name:
            square = p @ p.T if "lora_A" in name else p.T @ p
            distances.append(torch.linalg.norm(square - torch.eye(len(square), dtype=p.dtype, device=p.device)))
    return _config(model).orth_reg_weight * torch.stack(distances).mean()


def kept_ranks(model: "nn.Module") -> dict[str, list[bool]]:
    """Return which triplets of each adapted module remain, by its name; empty before the first pruning."""
    pattern = _config(model).rank_pattern or {}
    return {name.partition(".lora_E")[0]: kept for name, kept in pattern.items()}


def _schedule(total_steps: int) -> dict[str, Any]:
    """Return the schedule of pruning: none in the first tenth of the steps, and none in the last three tenths.

    Raises:
        AdaptError: for fewer than two steps, since then nothing can be measured before pruning.
    """
    if total_steps < 2:
        raise AdaptError(f"adalora shares out ranks over the steps, and there are {total_steps}. Give it at least 2.")
    return {
        "total_step": total_steps,
        "tinit": total_steps // 10,
        "tfinal": total_steps * 3 // 10,
        "deltaT": max(1, total_steps // 100),
    }


def _allocator(model: "nn.Module") -> Any:
    from qvtune.roles.unwrap import unwrap_wrappers

    tuner: Any = unwrap_wrappers(model).base_model
    return tuner.rankallocator


def _config(model: "nn.Module") -> Any:
    from qvtune.roles.unwrap import unwrap_wrappers

    peft_model: Any = unwrap_wrappers(model)
    return peft_model.peft_config[_ADAPTER]


ADALORA = AdaLora(
    "adalora",
    "LoRA whose ranks are shared out while it trains",
    lr=1e-3,
    lr_ratio=4.0,
    rank=8,
    alpha=8.0,
    dropout=0.1,
    b_lr_ratio=1.0,
)
