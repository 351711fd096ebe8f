"""Measure which projection of a feed-forward network has which role by perturbing them on the model itself.

For a network down(c) with c = f(gate x) * up x and an activation f:

- c is linear in up's output: what doubling it adds, turning its sign takes away three times;
- c is not linear in the gate's output, since f is not;
- in c = f(up x), without a gate, there is nothing to tell apart, and c moves with up.

A layer norm of the product hides its size. Then turning the sign of up's output turns that of c, up to the norm's bias.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from qvtune.roles.attention import FeedForwardLayer, Projection
from qvtune.roles.calls import Call
from qvtune.roles.feed_forward import FUSED, halves
from qvtune.roles.perturb import LINEAR, Change, close, first_call_only, noise, on_rows
from qvtune.roles.record import Calls

# Below this relative change the product counts as untouched.
UNTOUCHED = 1e-6
# What is said of a layer that the model did not call, or called without a position.
UNREACHED = "it was not reached by a forward pass on a short input"


def probe_network(inner: nn.Module, layer: FeedForwardLayer, calls: Calls) -> FeedForwardLayer | str:
    """Return the layer with its roles as measured, or why it could not be measured.

    The structure only proposes which of two projections is the gate, and which rows of one that holds both.
    """
    if calls.count == 0:
        return UNREACHED
    try:
        projections, layout = _measure(inner, layer, calls.first)
    except _UnclearError as error:
        return str(error)
    except Exception as error:  # a block called alone may raise anything
        return f"it could not be called alone: {type(error).__name__}"
    return replace(layer, projections=projections, layout=layout, uses=calls.count, verified=True)


class _UnclearError(Exception):
    """Raised if a measurement does not tell the roles."""


def _measure(inner: nn.Module, layer: FeedForwardLayer, call: Call) -> tuple[tuple[Projection, ...], str]:
    """Return the projections with their measured roles, and the layout."""
    down, up = layer["d"], layer["u"]
    moved = partial(_product, inner, layer, call)
    if layer.layout == "plain":
        if not _moves(moved, up):
            raise _UnclearError(f"the input of '{down.module}' does not depend on '{up.module}'")
        return layer.projections, layer.layout
    if not up.is_fused:
        gate = layer["g"]
        linear = _linear_among(moved, (gate, up))
        if len(linear) != 1:
            raise _UnclearError(_told(linear, [gate.module, up.module], down))
        other = gate if linear[0] is up else up
        return (replace(other, role="g"), replace(linear[0], role="u"), down), layer.layout
    if layer.layout == "declared":
        linear = _linear_among(moved, (layer["g"], up))
        if linear != [up]:
            raise _UnclearError(_told(linear, [f"the rows of {up.module}"], down))
        return layer.projections, layer.layout
    module = inner.get_submodule(up.module)
    arranged = {halves(layout, up.module, module)[1]: layout for layout in FUSED}
    linear = _linear_among(moved, list(arranged))
    if len(linear) != 1:
        raise _UnclearError(_told(linear, [f"the rows of {up.module}"], down))
    layout = arranged[linear[0]]
    return (*halves(layout, up.module, module), down), layout


def _told(linear: list[Any], modules: list[str], down: Projection) -> str:
    names = " and ".join(f"'{module}'" for module in modules)
    how = "both parts" if linear else "no part"
    return f"the input of '{down.module}' is linear in {how} of {names}, so the gate cannot be told from up"


def _linear_among(product: Any, parts: Sequence[Projection]) -> list[Projection]:
    """Return the parts in whose rows the product is linear, or, if it is in none, is so before it is normed."""
    for test in (_is_linear, _is_odd):
        if found := [part for part in parts if test(product, part)]:
            return found
    return []


def _is_linear(product: Any, part: Projection) -> bool:
    """Whether the product is linear in the rows of a projection, up to a constant."""
    for lift in (False, True):
        # A unit that is off, and a product that vanishes, hide what a projection does; noise turns units on.
        plain = product({}, lift=lift)
        twice, turned = (product({part.module: _on(part, factor)}, lift=lift) for factor in (2.0, -2.0))
        once = twice - plain
        if once.abs().max() > UNTOUCHED * plain.abs().max() and close(turned - plain, -3 * once):
            return True
    return False


def _is_odd(product: Any, part: Projection) -> bool:
    """Whether turning the sign of these rows turns that of the product, up to what is the same at every position."""
    plain, minus = product({}, lift=True), product({part.module: _on(part, -1.0)}, lift=True)
    total = plain + minus
    return bool((total - total[:1]).abs().max() <= LINEAR * plain.abs().max()) and not close(minus, plain)


def _moves(product: Any, part: Projection) -> bool:
    plain = product({})
    return any(
        bool((product({part.module: noise(strength)}) - plain).abs().max() > UNTOUCHED * plain.abs().max())
        for strength in (8.0, -64.0, 512.0)
    )


def _on(part: Projection, factor: float) -> Change:
    return on_rows(lambda out: factor * out, part.rows)


def _product(
    inner: nn.Module, layer: FeedForwardLayer, call: Call, changes: Mapping[str, Change], *, lift: bool = False
) -> Tensor:
    """Return the input of down, (positions, inputs) in float64, with the outputs of other projections changed.

    Before that, `lift` adds noise to these outputs.
    """
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].detach().double().flatten(end_dim=-2))

    with ExitStack() as hooks:
        hooks.callback(inner.get_submodule(layer["d"].module).register_forward_pre_hook(keep).remove)
        others = dict.fromkeys(p.module for p in layer.projections if p.role != "d")
        for name in others:
            module = inner.get_submodule(name)
            if lift:
                hooks.callback(module.register_forward_hook(first_call_only(noise(1.0, seed=len(name)))).remove)
            if name in changes:
                hooks.callback(module.register_forward_hook(first_call_only(changes[name])).remove)
        call.repeat(inner.get_submodule(layer.name))
    if not seen:
        raise _UnclearError(f"'{layer['d'].module}' is not called")
    if not seen[0].numel():
        raise _UnclearError(UNREACHED)
    if not seen[0].isfinite().all():
        raise _UnclearError(f"the input of '{layer['d'].module}' is not finite")
    return seen[0]
