"""AdaLoRA: LoRA whose ranks are shared out while it trains (Zhang et al. 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qvtune.errors import AdaptError, ModelError
from qvtune.methods.method import Adaptation
from qvtune.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

# It starts with so many times the rank that it ends with on average (section 4).
INITIAL_RANK = 1.5

_ADAPTER = "default"
_MEAN, _SPREAD, _KEPT = "importance/", "uncertainty/", "kept/"


@dataclass(frozen=True)
class AdaLora(PeftMethod):
    """Factors of a singular value decomposition, of which the least important triplets are pruned."""

    checkpoint: Literal["peft", "model", "trained"] = "trained"
    steps: bool = True
    shares_out: bool = True
    penalised_by_forward: bool = True

    def config(self, common: dict[str, Any], adaptation: Adaptation, total_steps: int | None) -> Any:
        """Return PEFT's configuration, of a training that ends with an average rank of `rank`."""
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
        """Add the triplets; the count of a module's ranks, which PEFT makes a parameter of, does not train."""
        adapted = super().apply(inner, adaptation, total_steps)
        for name, parameter in adapted.named_parameters():
            if ".ranknum." in name:  # which trains where PEFT has moved it to another device
                parameter.requires_grad_(False)
        return adapted

    def begin(self, model: "nn.Module", total_steps: int) -> None:
        """Share the ranks out over the steps."""
        plan_steps(model, total_steps)

    def penalty(self, model: "nn.Module") -> "Tensor":
        """Return what keeps the factors orthogonal."""
        return orthogonality(model)

    def after_step(self, model: "nn.Module", step: int) -> None:
        """Measure, and prune."""
        allocate(model, step)

    def state(self, model: "nn.Module") -> "dict[str, Tensor]":
        """Return the allocator's state."""
        import torch

        allocator = _allocator(model)
        state = {f"{_MEAN}{name}": value for name, value in allocator.exp_avg_ipt.items()}
        state |= {f"{_SPREAD}{name}": value for name, value in allocator.exp_avg_unc.items()}
        return state | {f"{_KEPT}{name}": torch.tensor(kept) for name, kept in kept_ranks(model).items()}

    def load_state(self, model: "nn.Module", state: "Mapping[str, Tensor]") -> None:
        """Give the allocator its state, which may be of another step, where it knew fewer or more triplets."""
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
        """Leave out what is pruned."""
        from qvtune.roles.unwrap import unwrap

        kept, found = kept_ranks(adapted), {}
        for name, parameter in unwrap(adapted).named_parameters():
            triplets = kept.get(name.partition(".lora_")[0])
            if triplets is not None and parameter.requires_grad:
                found[name] = parameter.numel() // len(triplets) * sum(triplets)
        return found

    def load(self, adapted: "nn.Module", adaptation: Adaptation, weights: "dict[str, Tensor]", folder: Path) -> None:
        """Give PEFT's layers the factors that are left."""
        from peft import PeftConfig

        _config(adapted).rank_pattern = PeftConfig.from_pretrained(str(folder)).rank_pattern
        super().load(adapted, adaptation, weights, folder)


def plan_steps(model: "nn.Module", total_steps: int) -> None:
    """Share the ranks out over so many steps.

    Raises:
        AdaptError: for fewer than two.
    """
    vars(_config(model)).update(_schedule(total_steps))


def allocate(model: "nn.Module", step: int) -> None:
    """Measure every triplet, and prune down to the budget of this step, counted from 1.

    To be called after the optimizer's step and before gradients are cleared.
    """
    from qvtune.roles.unwrap import unwrap_wrappers

    tuner: Any = unwrap_wrappers(model).base_model
    tuner.update_and_allocate(step)


def orthogonality(model: "nn.Module") -> "Tensor":
    """Return what AdaLoRA adds to the loss: γ times the mean of ||A A' - I|| and ||B' B - I|| (eq. 4)."""
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
    """Return which triplets of each adapted module are left, by its name; nothing before the first pruning."""
    pattern = _config(model).rank_pattern or {}
    return {name.partition(".lora_E")[0]: kept for name, kept in pattern.items()}


def _schedule(total_steps: int) -> dict[str, Any]:
    """Return when it prunes: not in the first tenth of the steps, nor in the last three tenths.

    Raises:
        AdaptError: for fewer than two steps, in which nothing can be measured before it is pruned.
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
