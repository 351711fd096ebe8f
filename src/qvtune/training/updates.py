"""How far training moves the projections of each role, relative to their weights: since the start, and in a step."""

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.func import functional_call

from qvtune.fast.precision import in_full
from qvtune.methods.adapted import adaptation_of
from qvtune.roles.attention import Projection
from qvtune.roles.layouts import ROLES
from qvtune.roles.modes import evaluating
from qvtune.roles.unwrap import base_layer, unwrap

# If a copy of the first weights is needed, only so many layers are measured, spread over the model.
SAMPLED_LAYERS = 4


class UpdateMeter:
    """Measures ‖W_t - W_0‖ / ‖W_0‖ by role, with Frobenius norms over the projections of the role together.

    For plain LoRA, W_t - W_0 = s B A, and its norm comes from two products of rank x rank: ‖B A‖² = tr(BᵀB A Aᵀ). For
    any other method W_t is the projection's output for the identity, and W_0 is a copy from before the first step. At
    most four layers are measured there.

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
        if not all(_starts_at_zero(module) for _, module in self._modules):
            self._modules = [(p, inner.get_submodule(p.trained)) for p in _spread(projections)]
            self._first = {id(module): effective_weight(module, p.shape[1]) for p, module in self._modules}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the relative size of the update by the role's name, such as {"query": 0.01, "value": 0.07}."""
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
        return _product_square(b, a) * lora.scaling[adapter] ** 2, base_layer(module).weight.float().square().sum()


@torch.no_grad()
def step_sizes(model: nn.Module, before: Mapping[str, Tensor]) -> dict[str, float]:
    """Return ‖W_t - W_{t-1}‖ / ‖W_{t-1}‖ by role, with Frobenius norms over the projections of the role together.

    Args:
        model: what `adapt` returned, after a step.
        before: copies of parameters from before the step, by name in the transformers model. Their projections are
            measured.
    """
    inner = unwrap(model)
    adaptation = adaptation_of(model)
    assert adaptation is not None, "a step is measured of what adapt returned"
    squares: dict[str, list[Tensor]] = {}
    for projection in adaptation.projections:
        module = inner.get_submodule(projection.trained)
        start = f"{projection.trained}."
        old = {name.removeprefix(start): value for name, value in before.items() if name.startswith(start)}
        if old and _moves(module):
            both = torch.stack(_step(module, projection.shape[1], old))
            squares.setdefault(ROLES[projection.role], []).append(both)
    totals = {role: torch.stack(parts).sum(dim=0) for role, parts in squares.items()}
    return {role: float(torch.sqrt(change / weight)) for role, (change, weight) in totals.items()}


def _step(module: nn.Module, inputs: int, old: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the squared norms of the change of a weight and of the weight before it."""
    if not _is_lora(module):
        before = effective_weight(module, inputs, old)
        return (effective_weight(module, inputs) - before).square().sum(), before.square().sum()
    lora: Any = module
    adapter = lora.active_adapters[0]
    scale = lora.scaling[adapter]
    new_a, new_b = lora.lora_A[adapter].weight.float(), lora.lora_B[adapter].weight.float()
    a, b = (old[f"lora_{factor}.{adapter}.weight"].float() for factor in "AB")
    # B' A' - B A = (B' - B) A' + B (A' - A): nothing large is subtracted, so a tiny step is not lost to rounding.
    change = _product_square(torch.cat([new_b - b, b], dim=1), torch.cat([new_a, new_a - a]))
    base = in_full(base_layer(module)).get("weight", base_layer(module).weight)
    weight = base.T if lora.fan_in_fan_out else base
    # ‖W + s B A‖² = ‖W‖² + 2 s tr(B' W A') + s² ‖B A‖²
    before = weight.square().sum() + 2 * scale * ((weight @ a.T) * b).sum() + scale**2 * _product_square(b, a)
    return scale**2 * change, before


def _product_square(b: Tensor, a: Tensor) -> Tensor:
    """Return ‖B A‖² = tr(B'B AA') from products of rank x rank."""
    return (a @ a.T * (b.T @ b)).sum()


@torch.no_grad()
def effective_weight(module: nn.Module, inputs: int, changed: Mapping[str, Tensor] | None = None) -> Tensor:
    """Return W, (inputs, outputs) in float32, of a module that computes x W + b, without dropout.

    Args:
        module: takes (rows, inputs) in float32.
        inputs: its number of inputs.
        changed: values that replace its own parameters of these names.
    """
    identity = torch.eye(inputs, device=next(module.parameters()).device)
    values = in_full(module) | {name: value.float() for name, value in (changed or {}).items()}
    with evaluating(module), torch.autocast(identity.device.type, enabled=False):
        whole = functional_call(module, values, (identity,))
        return whole - functional_call(module, values, (torch.zeros_like(identity[:1]),))


def _moves(module: Any) -> bool:
    """Whether training changes the weight, directly or by an adapter; BitFit does not."""
    with torch.enable_grad():  # a weight made from others, such as SIFT's, is computed on access
        return base_layer(module) is not module or module.weight.requires_grad


def _is_lora(module: nn.Module) -> bool:
    """Whether the weight is W + s B A."""
    return isinstance(module, LoraLinear) and not module.lora_variant and len(module.active_adapters) == 1


def _starts_at_zero(module: Any) -> bool:
    """Whether B is zero at the start, so that the change of the weight is s B A."""
    return _is_lora(module) and not module.lora_B[module.active_adapters[0]].weight.any()


def _spread(projections: list[Projection]) -> list[Projection]:
    by_role: dict[str, list[Projection]] = {}
    for projection in projections:
        by_role.setdefault(projection.role, []).append(projection)
    chosen = []
    for members in by_role.values():
        last, count = len(members) - 1, min(SAMPLED_LAYERS, len(members))
        chosen += [members[round(last * place / max(1, count - 1))] for place in range(count)]
    return chosen
