"""`UpdateMeter`: how far training has moved the projections of each role, relative to their weights."""

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from qvtune.adaptation import adaptation_of
from qvtune.roles.attention import Projection
from qvtune.roles.layouts import ROLES
from qvtune.roles.modes import evaluating
from qvtune.roles.unwrap import base_layer, unwrap
from qvtune.train.fast.precision import full_precision

# Where a copy of the first weights is needed, so many layers are measured, spread over the model.
SAMPLED_LAYERS = 4


class UpdateMeter:
    """Measures ‖W_t - W_0‖ / ‖W_0‖ by role, with Frobenius norms over the projections of the role together.

    Of plain LoRA, W_t - W_0 = s B A, and its norm comes from two products of rank x rank: ‖B A‖² = tr(BᵀB A Aᵀ). Under
    any other method W_t is what the projection does with the identity, and W_0 a copy from before the first step, so
    that at most four layers are measured there.

    Args:
        model: what `adapt` returned, before its first step.
    """

    def __init__(self, model: nn.Module) -> None:
        inner = unwrap(model)
        adaptation = adaptation_of(model)
        assert adaptation is not None, "a meter takes what adapt returned"
        projections = [p for p in adaptation.projections if _moves(inner.get_submodule(p.trained))]
        self._modules = [(p, inner.get_submodule(p.trained)) for p in projections]
        self._first: dict[int, Tensor] = {}
        if not all(_is_plain_lora(module) for _, module in self._modules):
            self._modules = [(p, inner.get_submodule(p.trained)) for p in _spread(projections)]
            self._first = {id(module): effective_weight(module, p.shape[1]) for p, module in self._modules}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the relative size of the update by the role's name, as in {"query": 0.01, "value": 0.07}."""
        moved: dict[str, Any] = {}
        total: dict[str, Any] = {}
        for projection, module in self._modules:
            name = ROLES[projection.role]
            change, weight = self._squares(projection, module)
            moved[name] = moved.get(name, 0.0) + change
            total[name] = total.get(name, 0.0) + weight
        return {name: float(torch.sqrt(moved[name] / total[name])) for name in moved}

    def _squares(self, projection: Projection, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Return the squared norms of the change and of the first weights."""
        if id(module) in self._first:
            first = self._first[id(module)]
            return (effective_weight(module, projection.shape[1]) - first).square().sum(), first.square().sum()
        lora: Any = module
        adapter = lora.active_adapters[0]
        a, b = lora.lora_A[adapter].weight.float(), lora.lora_B[adapter].weight.float()
        change = (a @ a.T * (b.T @ b)).sum() * lora.scaling[adapter] ** 2
        return change, base_layer(module).weight.float().square().sum()


@torch.no_grad()
def effective_weight(module: nn.Module, inputs: int) -> Tensor:
    """Return W, (inputs, outputs) in float32, of a module that computes x W + b, dropout left out.

    Args:
        module: takes (rows, inputs) in float32.
        inputs: its number of inputs.
    """
    identity = torch.eye(inputs, device=next(module.parameters()).device)
    with evaluating(module), full_precision(module), torch.autocast(identity.device.type, enabled=False):
        return (module(identity) - module(torch.zeros_like(identity[:1]))).float()


def _moves(module: Any) -> bool:
    """Whether the weight changes in training, of itself or by an adapter; BitFit's does not."""
    return base_layer(module) is not module or module.weight.requires_grad


def _is_plain_lora(module: nn.Module) -> bool:
    """Whether the change of the weight is s B A, which it is not where B starts elsewhere than at zero."""
    if not isinstance(module, LoraLinear) or module.lora_variant or len(module.active_adapters) != 1:
        return False
    factor: Any = module.lora_B[module.active_adapters[0]]
    return not factor.weight.any()


def _spread(projections: list[Projection]) -> list[Projection]:
    by_role: dict[str, list[Projection]] = {}
    for projection in projections:
        by_role.setdefault(projection.role, []).append(projection)
    chosen = []
    for members in by_role.values():
        last, count = len(members) - 1, min(SAMPLED_LAYERS, len(members))
        chosen += [members[round(last * place / max(1, count - 1))] for place in range(count)]
    return chosen
