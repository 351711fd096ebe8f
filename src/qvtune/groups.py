"""`param_groups`: named optimizer groups, one learning rate per role and one for the head."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from qvtune.adaptation import dead_copies
from qvtune.arguments import check_number
from qvtune.errors import RateError
from qvtune.methods.adapted import adaptation_of, method_of
from qvtune.methods.method import Adaptation
from qvtune.rates import B_FACTORS, GROUPS, HEAD, NO_DECAY, Rates, check_rate, owner_of, parse_rates
from qvtune.roles.attention import AttentionMap
from qvtune.roles.find import find_attention
from qvtune.roles.layouts import ROLES
from qvtune.roles.unwrap import unwrap
from qvtune.shards import dimensions


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    lr_ratio: float | None = None,
    b_lr_ratio: float | None = None,
    head_lr: float | None = None,
    query_lr: float | None = None,
    key_lr: float | None = None,
    value_lr: float | None = None,
    output_lr: float | None = None,
    rates: Mapping[str, float | str] | None = None,
    weight_decay: float = 0.0,
    attention: AttentionMap | None = None,
) -> list[dict[str, Any]]:
    """Sort the trainable parameters of `model` into named groups for any torch optimizer.

    The rate of every role but the value is η_QK = `lr`. The rate of the value is η_V = λ η_QK with λ = `lr_ratio` (Yao
    et al., IJCAI 2025). The rate of the head is `lr` unless `head_lr` is given. A parameter belongs to the role of the
    module that owns it, biases and adapter factors included. One-dimensional parameters (biases, norms) form separate
    groups, whose names end in "_no_decay"; weight decay does not apply to them. No group is empty. If η_B / η_A =
    `b_lr_ratio` is not 1 (LoRA+, Hayou et al. 2024), the factors B of each role form a group too, such as "value_b".
    Its rate is the role's rate times the ratio.

    Args:
        model: what `adapt` returned, or any model in which only projections with a role and a head require gradients;
            also inside DistributedDataParallel or `torch.compile`. `fully_shard` replaces parameters, so call this
            after it, but before `deepspeed.initialize`.
        lr: learning rate of every role but the value, above 0.
        lr_ratio: λ, above 0; 1 when None.
        b_lr_ratio: η_B / η_A, above 0; when None, 16 for a model adapted by "loraplus", and 1 for others.
        head_lr: learning rate of the head.
        query_lr: rate of the query alone, instead of `lr`.
        key_lr: rate of the key alone, instead of `lr`.
        value_lr: rate of the value, instead of `lr` times `lr_ratio`.
        output_lr: rate of the output projection alone, instead of `lr`.
        rates: rates of roles by name or letter: a number, or text such as "4x" for a multiple of `lr`, as in
            {"gate": 2e-4, "down": "4x"}.
        weight_decay: for the groups without "_no_decay", at least 0.
        attention: the attention map, for a model without `adapt`; found when None.

    Returns:
        Dictionaries with `name`, `params`, `param_names` (relative to the transformers model), `lr`, `weight_decay`.
        For a model adapted by "galore" also the settings of the optimizer that its `Method.make_optimizer` makes.

    Raises:
        RateError: for a rate that is not a finite number above 0, for two rates of one role (λ is one of the value),
            for one in `rates` of a role that does not train, for a ratio that the method does not use, for a trainable
            parameter of neither a role nor the head, or if none trains.
    """
    check_rate("lr", lr)
    lr_ratio = 1.0 if lr_ratio is None and value_lr is None else lr_ratio
    resolved = Rates.resolve(
        method_of(model), lr=lr, lr_ratio=lr_ratio, b_lr_ratio=b_lr_ratio, head_lr=head_lr, query_lr=query_lr,
        key_lr=key_lr, value_lr=value_lr, output_lr=output_lr, rates=rates or {},
    )  # fmt: skip
    groups = group_parameters(model, resolved, weight_decay=weight_decay, attention=attention)
    check_trains(parse_rates(rates or {}), [group["name"] for group in groups])
    return groups


def group_parameters(
    model: nn.Module, rates: Rates, *, weight_decay: float = 0.0, attention: AttentionMap | None = None
) -> list[dict[str, Any]]:
    """Return the same as `param_groups`, for resolved rates."""
    adaptation, method = adaptation_of(model), method_of(model)
    check_number("weight_decay", weight_decay, RateError)
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise RateError(f"weight_decay is {weight_decay}; it must be a finite number, at least 0.")
    groups: dict[str, dict[str, Any]] = {}
    for name, (owner, parameter) in _owners(model, attention).items():
        spared = dimensions(parameter) < 2 or (method is not None and not method.decays and owner != HEAD)
        is_b = rates.b_lr_ratio != 1.0 and owner != HEAD and ".lora_B." in name
        group_name = owner + B_FACTORS * is_b + NO_DECAY * spared
        settings = {
            "name": group_name,
            "params": [],
            "param_names": [],
            "lr": rates.of(owner, is_b=is_b),
            "weight_decay": 0.0 if spared else weight_decay,
        }
        if adaptation is not None and method is not None and owner != HEAD and not spared:
            settings |= method.group_settings(adaptation)
        group = groups.setdefault(group_name, settings)
        group["params"].append(parameter)
        group["param_names"].append(name)
    return [groups[name] for name in GROUPS if name in groups]


def check_trains(rates: Iterable[str], groups: Iterable[str]) -> None:
    """Check that every role with a rate of its own has a group.

    Raises:
        RateError: if one has none; the text names it.
    """
    owners = {owner_of(group) for group in groups}
    for role in rates:
        if role not in owners:
            raise RateError(f"a rate of the {role} is given, and no {role} trains in this model. Leave the rate out.")


def _owners(model: nn.Module, attention: AttentionMap | None) -> dict[str, tuple[str, nn.Parameter]]:
    """Map the name of every trainable parameter to its role or "head" and the parameter itself."""
    inner = unwrap(model)
    adaptation = adaptation_of(model)
    attention = attention or (adaptation.attention if adaptation else find_attention(model))
    trainable = {name: p for name, p in inner.named_parameters() if p.requires_grad}
    owners, unplaced = {}, []
    for name, parameter in trainable.items():
        role = attention.role_of_module(name)
        if role is not None:
            owners[name] = (ROLES[role], parameter)
        elif _in_head(name, parameter, inner, adaptation):
            owners[name] = (HEAD, parameter)
        else:
            unplaced.append(name)
    placed = {id(p) for p in trainable.values()}
    unplaced += [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in placed]
    if unplaced:
        more = f" and {len(unplaced) - 3} more" if len(unplaced) > 3 else ""
        raise RateError(
            f"{', '.join(unplaced[:3])}{more} require gradients and belong neither to a role nor to the "
            "head. Call qvtune.adapt first, or freeze them with requires_grad_(False)."
        )
    if not owners:
        raise RateError("no parameter of this model requires gradients. Call qvtune.adapt first.")
    return owners


def _in_head(name: str, parameter: nn.Parameter, inner: nn.Module, adaptation: Adaptation | None) -> bool:
    if adaptation is not None:
        return any(name.startswith(module + ".") for module in adaptation.head)
    base = getattr(inner, "base_model", inner)
    inside = {id(p) for p in base.parameters()} - dead_copies(inner)
    return base is not inner and id(parameter) not in inside
