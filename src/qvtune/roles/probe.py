"""Measure which projection is which by perturbing them on the model itself.

For one attention layer with context c = softmax(f(q, k)) v, the input of the output projection:

- c is linear in v: doubling the value projection's output doubles c, exactly in floating point;
- a change of q at position i moves c at position i alone;
- a change of k at position j moves c at other positions too, and c is not linear in k.

A change of one row of q moves the channels of one head, a change of one row of k those of all heads that share it.
Shapes: b batch (1), s positions, d channels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qvtune.errors import RoleError
from qvtune.roles.attention import AttentionLayer

POSITIONS = 8
# Relative change of the context below which a position or channel counts as untouched; it is zero but for rounding.
UNTOUCHED = 1e-6
# Relative error within which a doubled projection counts as having doubled the context (bfloat16 has 8 bits).
LINEAR = 1e-2
# Perturbations are these many times the projection's own root mean square. One alone may vanish in bfloat16's rounding
# (a fresh model's attention hardly moves) or overflow float16, so what any of them moves counts.
STRENGTHS = (8.0, -64.0, 512.0)

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Probed:
    """What was measured on one layer.

    `roles` maps the claimed q, k and v to what the module behaves like. `head_dim` and `group` (query heads per key
    head) are None where rows of the query or key mix before the product, as under a norm over all heads.
    """

    roles: dict[str, str]
    kind: str
    uses: int
    head_dim: int | None
    group: int | None


def probe(inner: nn.Module, layers: Sequence[AttentionLayer], inputs: Mapping[str, Any] | None = None) -> list[Probed]:
    """Run `inner` once on a short input, then each attention layer alone with its projections perturbed.

    Raises:
        RoleError: if the model cannot be run, or a layer is not reached.
    """
    with _evaluating(inner), torch.no_grad():
        calls = _record_calls(inner, layers, dummy_inputs(inner) if inputs is None else dict(inputs))
        return [_probe_layer(inner, layer, calls[layer.name]) for layer in layers]


def dummy_inputs(inner: Any, positions: int = POSITIONS) -> dict[str, Tensor]:
    """Make one short random input from the model's configuration, without touching the global random state."""
    generator = torch.Generator().manual_seed(0)
    config = inner.config
    device = next(inner.parameters()).device
    main = getattr(inner, "main_input_name", "input_ids")
    if main == "pixel_values":
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        image = torch.randn(1, config.num_channels, height, width, generator=generator)
        return {main: image.to(device, next(inner.parameters()).dtype)}
    vocabulary = config.get_text_config().vocab_size
    special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "eos", "bos")}
    eos = getattr(config, "eos_token_id", None)
    ordinary = torch.tensor([token for token in range(min(vocabulary, 5000)) if token not in special])
    ids = ordinary[torch.randint(len(ordinary), (1, positions), generator=generator)]
    if isinstance(eos, int) and eos < vocabulary:
        ids[:, -1] = eos  # BART and T5 classifiers pool at the end-of-sequence token
    inputs = {"input_ids": ids.to(device)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    return inputs


@dataclass
class _Calls:
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None
    count: int = 0


def _record_calls(inner: nn.Module, layers: Sequence[AttentionLayer], inputs: dict[str, Any]) -> dict[str, _Calls]:
    calls = {layer.name: _Calls() for layer in layers}

    def recorder(record: _Calls) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if record.count == 0:
                record.args, record.kwargs = args, dict(kwargs)
            record.count += 1

        return hook

    body = getattr(inner, "base_model", inner)
    with ExitStack() as hooks:
        for layer in layers:
            handle = inner.get_submodule(layer.name).register_forward_pre_hook(
                recorder(calls[layer.name]), with_kwargs=True
            )
            hooks.callback(handle.remove)
        try:
            body(**inputs, use_cache=False) if _takes_cache(inner) else body(**inputs)
        except Exception as error:
            raise RoleError(
                f"the model could not be run on a short input to measure its roles: {type(error).__name__}: {error}. "
                "Give inputs that it accepts: find_attention(model, inputs={...})."
            ) from error
    for layer in layers:
        if calls[layer.name].count == 0:
            raise RoleError(f"'{layer.name}' was not reached by a forward pass, so its roles cannot be measured.")
    return calls


def _probe_layer(inner: nn.Module, layer: AttentionLayer, call: _Calls) -> Probed:
    attention = inner.get_submodule(layer.name)
    modules = {p.role: inner.get_submodule(p.module) for p in layer.projections}

    def context(changes: Mapping[str, Change] | None = None) -> Tensor:
        return _context(attention, modules, call, changes or {})

    reference = context()
    roles = {role: _behaves_like(context, reference, role) for role in "qkv"}
    head_dim = group = None
    if roles == {"q": "query", "k": "key", "v": "value"}:
        head_dim, group = _measure_heads(context, reference, layer)
    same_input = _inputs_are_same(attention, modules, call)
    return Probed(roles, "self" if same_input else "cross", call.count, head_dim, group)


def _behaves_like(context: Callable[..., Tensor], reference: Tensor, role: str) -> str:
    doubled = context({role: lambda out: 2 * out})
    if _close(doubled, 2 * reference):
        return "value"
    # In the middle, because causal attention sees nothing from the first position and little from the last.
    middle = reference.shape[1] // 2
    moved = _moved(context, reference, 1, role, lambda strength: _noise_at(middle, strength))
    if moved == {middle}:
        return "query"
    if moved:
        return "key"
    return "projection with no effect on the context"


def _measure_heads(
    context: Callable[..., Tensor], reference: Tensor, layer: AttentionLayer
) -> tuple[int | None, int | None]:
    """Return the size of a head and the query heads per key head, each None where rows mix across heads."""
    head_dim = len(_moved(context, reference, 2, "q", lambda strength: _push_row(slice(None), strength)))
    # At one position, because a softmax does not see what all keys have in common.
    shared = len(_moved(context, reference, 2, "k", lambda strength: _push_row(0, strength)))
    if head_dim == reference.shape[2] and layer.heads > 1:
        return None, None
    mixes = shared == reference.shape[2] and layer.kv_heads > 1
    return head_dim, None if mixes else shared // head_dim


def _context(
    attention: nn.Module, modules: dict[str, nn.Module], call: _Calls, changes: Mapping[str, Change]
) -> Tensor:
    """Return the input of the output projection, (1, s, d) in float64, with the projections' outputs changed."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].detach().double())

    with ExitStack() as hooks:
        hooks.callback(modules["o"].register_forward_pre_hook(keep).remove)
        for role, change in changes.items():
            hooks.callback(modules[role].register_forward_hook(_first_call_only(change)).remove)
        attention(*call.args, **(call.kwargs or {}))
    return seen[0].reshape(1, -1, seen[0].shape[-1])


def _first_call_only(change: Change) -> Callable[..., Tensor | None]:
    # DeBERTa passes its position embeddings through the same projections in a second call.
    done: list[bool] = []

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if done:
            return None
        done.append(True)
        return change(output)

    return hook


def _inputs_are_same(attention: nn.Module, modules: dict[str, nn.Module], call: _Calls) -> bool:
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for role in "qk":

            def keep(module: nn.Module, args: tuple[Any, ...], role: str = role) -> None:
                seen.setdefault(role, args[0])

            hooks.callback(modules[role].register_forward_pre_hook(keep).remove)
        attention(*call.args, **(call.kwargs or {}))
    return seen["q"].shape == seen["k"].shape and bool(torch.equal(seen["q"], seen["k"]))


def _noise_at(position: int, strength: float) -> Change:
    def change(out: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(out.shape[-1], generator=generator).to(out)
        out = out.clone()
        out[:, position] += strength * _scale(out) * noise
        return out

    return change


def _push_row(position: int | slice, strength: float) -> Change:
    def change(out: Tensor) -> Tensor:
        push = strength * _scale(out)
        out = out.clone()
        out[:, position, 0] += push
        return out

    return change


def _scale(out: Tensor) -> Tensor:
    # At least one, so that a freshly initialised model with tiny projections still moves.
    return out.float().pow(2).mean().sqrt().clamp(min=1.0).to(out.dtype)


def _moved(
    context: Callable[..., Tensor], reference: Tensor, dim: int, role: str, change: Callable[[float], Change]
) -> set[int]:
    """Return the indices along `dim` at which the context moves when `role` is changed at any strength."""
    others = [d for d in range(reference.dim()) if d != dim]
    moved: set[int] = set()
    for strength in STRENGTHS:
        difference = (context({role: change(strength)}) - reference).abs().amax(dim=others)
        moved |= set(torch.nonzero(difference > UNTOUCHED * reference.abs().max()).flatten().tolist())
    return moved


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= LINEAR * b.abs().max()) and bool(b.abs().max() > 0)


def _takes_cache(inner: nn.Module) -> bool:
    return hasattr(inner.config, "use_cache")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
