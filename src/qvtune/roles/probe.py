"""Measure which projection has which role by perturbing them on the model itself.

For one attention layer with context c = softmax(f(q, k)) v, the input of the output projection:

- c is linear in v: doubling the value projection's output doubles c, exactly in floating point;
- a change of q at position i moves c only at position i;
- a change of k at position j moves c at other positions too, and c is not linear in k.

A change of one row of q moves the channels of one head; a change of one row of k moves those of all heads that share
it. Positions are those of all sequences, images or windows of a batch, one after another.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qvtune.errors import RoleError
from qvtune.roles.attention import AttentionLayer, FeedForwardLayer, Projection
from qvtune.roles.calls import Call
from qvtune.roles.inputs import POSITIONS
from qvtune.roles.layouts import ROLES, Rows
from qvtune.roles.modes import evaluating
from qvtune.roles.multihead import SplitMultihead
from qvtune.roles.perturb import LINEAR, Change, close, first_call_only, noise, on_rows, scale_of
from qvtune.roles.probe_network import probe_network
from qvtune.roles.record import Calls, record_calls

# A position or channel counts as untouched below this relative change of the context; only rounding makes it differ
# from zero.
UNTOUCHED = 1e-6
# If all weights of a projection are below this, rounding swallows its output; trained projections have larger weights.
TINY = 1e-4
# Perturbations are these multiples of the projection's own root mean square. A single one may vanish in bfloat16's
# rounding (a new model's attention hardly moves) or overflow float16, so a move under any of them counts.
STRENGTHS = (8.0, -64.0, 512.0)


@dataclass(frozen=True)
class Probed:
    """The measurements on one layer.

    `roles` maps the claimed q, k and v to the roles that their rows behave like. `width` counts the channels of the
    context. `head_dim` and `group` (query heads per key head) are None if rows of the query or key mix before the
    product, as with a norm over all heads.
    """

    roles: dict[str, str]
    kind: str
    uses: int
    width: int
    head_dim: int | None
    group: int | None


def probe(
    inner: nn.Module,
    layers: Sequence[AttentionLayer],
    networks: Sequence[FeedForwardLayer] = (),
    inputs: Mapping[str, Any] | None = None,
) -> tuple[list[Probed], list[FeedForwardLayer | str]]:
    """Run `inner` once on a short input, then each layer alone with its projections perturbed.

    Returns:
        The measurements on the attention layers; and each feed-forward layer with its roles as measured, or why it
            could not be measured.

    Raises:
        RoleError: if the model cannot be run, or an attention layer is not reached.
    """
    with evaluating(inner), torch.no_grad():
        calls = record_calls(inner, [layer.name for layer in layers], [layer.name for layer in networks], inputs)
        probed = [_probe_layer(inner, layer, calls[layer.name]) for layer in layers]
        return probed, [probe_network(inner, layer, calls[layer.name]) for layer in networks]


def _probe_layer(inner: nn.Module, layer: AttentionLayer, calls: Calls) -> Probed:
    attention = inner.get_submodule(layer.name)
    parts = {p.role: _part(inner, p) for p in reversed(layer.projections)}  # a role's first one

    plain = partial(_context, attention, parts, calls.first)
    # Inputs have no visible effect through almost zero weights, so noise is added to the outputs.
    claimed = [role for role in "qkv" if role in parts]
    is_lost = any(_is_next_to_nothing(parts[role].module) for role in claimed)
    disturbed: dict[str, Any] = {"lift" if is_lost else "scatter": noise(1.0)}
    scattered = partial(_context, attention, parts, calls.first, **disturbed)
    honest = {role: ROLES[role] for role in claimed}
    roles = _measure_roles(plain, claimed)
    if roles != honest and _measure_roles(scattered, claimed) == honest:
        # Equal values at all positions hide their weights, and equal keys hide the query. They are zeros in the first
        # layer of a decoder like DETR's, and almost zero in some new models. With noise in the inputs of the
        # projections they differ.
        roles = honest
    reference = scattered()
    if not reference.isfinite().all():
        raise RoleError(
            f"what '{layer.name}' gives for a short input is not finite, so its roles cannot be measured. Give inputs "
            "that it accepts, find_attention(model, inputs={...}), or load the model with another attn_implementation."
        )
    width, head_dim, group = reference.shape[1], None, None
    if roles == {"q": "query", "k": "key", "v": "value"}:
        width, head_dim, group = _measure_heads(scattered, reference, layer)
    same_input = _inputs_are_same(attention, parts, calls.first)
    return Probed(roles, "self" if same_input else "cross", calls.count, width, head_dim, group)


def _is_next_to_nothing(projection: nn.Module) -> bool:
    weight = getattr(projection, "weight", None)
    return isinstance(weight, Tensor) and bool(weight.abs().max() < TINY)


def _measure_roles(context: Callable[..., Tensor], claimed: Sequence[str]) -> dict[str, str]:
    reference = context()
    return {role: _behaves_like(context, reference, role, claimed) for role in claimed}


@dataclass(frozen=True)
class _Part:
    """The module of a projection and the rows of its output that are claimed for the role."""

    module: nn.Module
    rows: Rows


def _part(inner: nn.Module, projection: Projection) -> _Part:
    module = inner.get_submodule(projection.module)
    if isinstance(module, SplitMultihead):
        return _Part(module.parts[projection.role], Rows(0, len(projection.rows)))
    return _Part(module, projection.rows)


def _behaves_like(context: Callable[..., Tensor], reference: Tensor, role: str, claimed: Sequence[str]) -> str:
    if close(context({role: lambda out: 2 * out}), 2 * reference):
        return "value"
    if _is_affine(context, reference, role):
        return "value"
    alone = 0
    for position in _telling_positions(len(reference)):
        moved = _moved(context, reference, 0, role, partial(_noise_at, position, len(reference)))
        if len(moved) > 1 or (moved and len(reference) == 1 and _is_relative(context, reference, role)):
            is_value = _is_averaged(context, role, claimed) or _is_indispensable(context, reference, role)
            return "value" if is_value else "key"
        alone += len(moved)
        # The context may have another order than the queries, as in Hiera, which pools them: then two positions decide.
        if moved == {position} or alone == 2:
            return "query"
    return "query" if alone else "projection with no effect on the context"


def _is_relative(context: Callable[..., Tensor], reference: Tensor, role: str) -> bool:
    """Whether an equal change at all positions moves nothing: a softmax sees only the differences between keys.

    This distinguishes keys from the query if there is only one query, as in pooling.
    """
    shared, single = (
        (context({role: change}) - reference).abs().max()
        for change in (lambda out: out + scale_of(out), _noise_at(0, len(reference), 1.0))
    )
    return bool(shared < LINEAR * single)


def _telling_positions(positions: int) -> list[int]:
    """List positions to change one after another, until one has an effect.

    In causal attention the first position sees nothing else and the last is hardly seen. Some positions are padding:
    where Pegasus-X shifts its blocks, all but those from a quarter on.
    """
    middle = min(positions, POSITIONS) // 2
    return list(dict.fromkeys((middle, positions // 2, min(1, positions - 1), positions // 3, positions // 4)))


def _is_affine(context: Callable[..., Tensor], reference: Tensor, role: str) -> bool:
    """Whether the context is linear in `role` up to a constant, as for values with an added position.

    A key's effect is bounded by the values and levels off, so it neither grows with its size nor stays linear.
    """
    once, twice, thrice = (context({role: partial(_times, factor)}) for factor in (1e4, 2e4, 3e4))
    return close(thrice - twice, twice - once) and bool((twice - once).abs().max() > 50 * reference.abs().max())


def _times(factor: float, out: Tensor) -> Tensor:
    return factor * out


def _is_averaged(context: Callable[..., Tensor], role: str, claimed: Sequence[str]) -> bool:
    """Whether the context is an average over positions of the outputs of `role`, also if a norm follows.

    An average of equal values does not depend on its weights. So if the projection's output is the same at every
    position, changes of the other two projections must not move the context. For a key this fails, since the average is
    not of the key.
    """
    constant = {
        role: lambda out: out.reshape(-1, out.shape[-1])[:1].expand_as(out.reshape(-1, out.shape[-1])).reshape_as(out)
    }
    still = context(constant)
    others = {other: noise(8.0) for other in claimed if other != role}
    return close(context(constant | others), still)


def _is_indispensable(context: Callable[..., Tensor], reference: Tensor, role: str) -> bool:
    """Whether the context vanishes without `role`: true for values, also if normed or mixed before they are averaged.

    Without keys the softmax still averages the values.
    """
    return bool(context({role: torch.zeros_like}).abs().max() <= UNTOUCHED * reference.abs().max())


def _measure_heads(
    context: Callable[..., Tensor], reference: Tensor, layer: AttentionLayer
) -> tuple[int, int | None, int | None]:
    """Return the number of channels of the context, the size of a head and the query heads per key head.

    The last two are None if rows mix across heads.
    """
    width = reference.shape[1]
    by_query = _moved(context, reference, 1, "q", lambda strength: _push_row(None, strength))
    # Only one position changes, since a softmax does not see what all keys have in common.
    shared = len(_moved(context, reference, 1, "k", lambda strength: _push_row(0, strength)))
    by_keys = _moved(context, reference, 1, "k", partial(_noise_at, 0, len(reference)))
    if by_keys and by_query - by_keys:
        # ConvBERT's query also steers a convolution, whose channels no key reaches.
        width, by_query = len(by_keys), by_query & by_keys
    head_dim = len(by_query)
    if head_dim == width and layer.heads > 1:
        return width, None, None
    mixes = shared in (0, width) and layer.kv_heads > 1
    return width, head_dim, None if mixes else shared // head_dim


def _context(
    attention: nn.Module,
    parts: dict[str, _Part],
    call: Call,
    changes: Mapping[str, Change] | None = None,
    scatter: Change | None = None,
    lift: Change | None = None,
) -> Tensor:
    """Return the context, (positions, d) in float64, with the projections' outputs changed.

    Before that, `scatter` changes their inputs, or `lift` their outputs.

    The context is the input of the output projection, or all its inputs if a module has several streams, as in
    ProphetNet's decoder. Without an output projection, it is what the attention module returns.
    """
    seen: list[Tensor] = []

    def keep(value: Any) -> None:
        value = value[0] if isinstance(value, tuple) else value
        seen.append(value.detach().double().flatten(end_dim=-2))

    with ExitStack() as hooks:
        if "o" in parts:
            hooks.callback(parts["o"].module.register_forward_pre_hook(lambda module, args: keep(args)).remove)
        if scatter:
            for module in {parts[role].module for role in "qkv" if role in parts}:
                hooks.callback(module.register_forward_pre_hook(lambda module, args: (scatter(args[0]),)).remove)
        if lift:
            for module in {parts[role].module for role in "qkv" if role in parts}:
                hooks.callback(module.register_forward_hook(first_call_only(lift)).remove)
        for role, change in (changes or {}).items():
            hook = first_call_only(on_rows(change, parts[role].rows))
            hooks.callback(parts[role].module.register_forward_hook(hook).remove)
        result = call.repeat(attention)
    if "o" not in parts:
        keep(result)
    if not seen:
        raise RoleError(
            f"{type(attention).__name__} uses the weight of its output projection without calling the module, so its "
            "roles cannot be measured. Load the model without measuring: find_attention(model, verify=False)."
        )
    return torch.cat(seen)


def _inputs_are_same(attention: nn.Module, parts: dict[str, _Part], call: Call) -> bool:
    if "k" not in parts or parts["q"].module is parts["k"].module:
        return True
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for role in "qk":

            def keep(module: nn.Module, args: tuple[Any, ...], role: str = role) -> None:
                seen.setdefault(role, args[0])

            hooks.callback(parts[role].module.register_forward_pre_hook(keep).remove)
        call.repeat(attention)
    return seen["q"].shape == seen["k"].shape and bool(torch.equal(seen["q"], seen["k"]))


def _noise_at(position: int, positions: int, strength: float) -> Change:
    """Change one of `positions` positions; where a projection has more or fewer, change it at the same fraction."""

    def change(out: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(out.shape[-1], generator=generator).to(out)
        flat = out.reshape(-1, out.shape[-1]).clone()
        flat[position * len(flat) // positions] += strength * scale_of(out) * noise
        return flat.reshape(out.shape)

    return change


def _push_row(position: int | None, strength: float) -> Change:
    """Change the first row at one position, or at every position."""

    def change(out: Tensor) -> Tensor:
        flat = out.reshape(-1, out.shape[-1]).clone()
        flat[slice(None) if position is None else position, 0] += strength * scale_of(out)
        return flat.reshape(out.shape)

    return change


def _moved(
    context: Callable[..., Tensor], reference: Tensor, dim: int, role: str, change: Callable[[float], Change]
) -> set[int]:
    """Return the indices along `dim` at which the context moves when `role` is changed at any strength."""
    moved: set[int] = set()
    for strength in STRENGTHS:
        difference = (context({role: change(strength)}) - reference).abs().amax(dim=1 - dim)
        moved |= set(torch.nonzero(difference > UNTOUCHED * reference.abs().max()).flatten().tolist())
    return moved
