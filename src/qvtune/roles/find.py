"""`find_attention`: locate the projections by structure, then measure them on the model itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from qvtune.arguments import check_model
from qvtune.errors import RoleError
from qvtune.roles.attention import (
    BY_HAND,
    AttentionLayer,
    AttentionMap,
    FeedForwardLayer,
    Projection,
    WithoutRoles,
)
from qvtune.roles.feed_forward import with_feed_forward
from qvtune.roles.fused import taken_apart
from qvtune.roles.layouts import ROLES
from qvtune.roles.locate import locate
from qvtune.roles.probe import Probed, probe
from qvtune.roles.probe_network import UNREACHED
from qvtune.roles.unwrap import unwrap


def find_attention(
    model: nn.Module, *, verify: bool | None = None, inputs: Mapping[str, Any] | None = None
) -> AttentionMap:
    """Find query, key, value and output of every attention layer of `model`, and gate, up and down beside them.

    The structure of the modules proposes the roles, also for the rows of a fused matrix. A probe then runs the model on
    one short random input and measures them. Doubling the value projection's output doubles the layer's context. A
    change of the query at one position moves only that position. A change of the key at one position moves other
    positions too, and is not linear. The sizes of heads are measured the same way. In a
    feed-forward network, the product of gate and up is linear in up's output and not in the gate's. The model, its
    modes and the global random state are unchanged afterwards.

    A feed-forward network that is not understood is no error here, since attention trains without it. It is listed in
    `unknown`, and `adapt` refuses the roles g, u and d. Experts behind a router are listed in `experts`.

    Args:
        model: a transformers model, also inside PEFT, DistributedDataParallel or `torch.compile`.
        verify: run the probe. None runs it unless the model is on the meta device, where there is nothing to measure.
            Without the probe, layers have `verified=False`.
        inputs: keyword arguments for the model's forward pass in the probe, if those made from its configuration (8
            random token ids, one random image, ...) do not fit.

    Returns:
        The map; module names are relative to the transformers model, without PEFT's prefixes. Its `others` are the
        modules that mix positions without query, key and value, with the reason.

    Raises:
        RoleError: if nothing is found, if some modules look like attention but are not understood, or if the probe
            contradicts the structure. The text names the modules.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> model = BertModel(BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        ...                              intermediate_size=64, vocab_size=100))
        >>> find_attention(model).layers[1]["v"].module
        'encoder.layer.1.attention.self.value'
    """
    check_model(model, RoleError)
    inner = unwrap(model)
    attention = with_feed_forward(inner, locate(inner))
    measured = not _is_on_meta(inner) if verify is None else verify
    return confirmed(inner, attention, inputs) if measured else attention


def confirmed(inner: nn.Module, attention: AttentionMap, inputs: Mapping[str, Any] | None) -> AttentionMap:
    """Measure a map on the model, and return it with the measurements.

    Raises:
        RoleError: if the model cannot be run, or the measurement contradicts the map.
    """
    if _is_on_meta(inner):
        raise RoleError(
            "the model is on the meta device, so its roles cannot be measured. "
            "Load its weights, or call find_attention(model, verify=False)."
        )
    with taken_apart(inner):
        results, measured = probe(inner, attention.layers, attention.feed_forward, inputs)
        networks = _with_unreached(inner, attention, measured)
    unclear = [
        WithoutRoles(layer.name, type(inner.get_submodule(layer.name)).__name__, reason)
        for layer, reason in zip(attention.feed_forward, networks, strict=True)
        if isinstance(reason, str)
    ]
    return replace(
        attention,
        layers=tuple(map(_confirm, attention.layers, results)),
        feed_forward=tuple(layer for layer in networks if not isinstance(layer, str)),
        unknown=(*attention.unknown, *unclear),
    )


def _with_unreached(
    inner: nn.Module, attention: AttentionMap, measured: Sequence[FeedForwardLayer | str]
) -> list[FeedForwardLayer | str]:
    """Keep networks that no short input reaches, if what was measured elsewhere, or the structure alone, tells roles.

    The same class computes the same, so such a layer is as one of its class. Without a gate there is nothing to tell
    apart. These layers stay `verified=False`.
    """

    def kind(layer: FeedForwardLayer) -> tuple[str, tuple[str, ...]]:
        names = tuple(projection.module.removeprefix(layer.name) for projection in layer.projections)
        return type(inner.get_submodule(layer.name)).__name__, names

    pairs = list(zip(attention.feed_forward, measured, strict=True))
    as_found = {kind(found): result == replace(found, uses=result.uses, verified=True)
                for found, result in pairs if isinstance(result, FeedForwardLayer)}  # fmt: skip
    return [
        found if result == UNREACHED and (found.layout == "plain" or as_found.get(kind(found), False)) else result
        for found, result in pairs
    ]


def _is_on_meta(inner: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in inner.parameters())


def _confirm(layer: AttentionLayer, result: Probed) -> AttentionLayer:
    """Return the layer with the measurements, or raise if they contradict it."""
    wrong = [
        f"'{_described(layer[role])}' was taken for the {ROLES[role]} and behaves like a {measured}"
        for role, measured in result.roles.items()
        if measured != ROLES[role]
    ]
    if wrong:
        raise RoleError(
            f"the probe contradicts the structure of '{layer.name}': {'; '.join(wrong)}. "
            "Probed: a value scales the context, a query moves its own position alone, a key moves others. State the "
            f"roles by hand: {BY_HAND}."
        )
    if layer.layout == "latent":
        result = replace(result, kind=layer.kind)  # query and keys come from separate latents
    if result.head_dim is None:
        return replace(layer, kind=result.kind, uses=result.uses, verified=True)
    # The value's heads may differ in size from those of query and key, and a query row moves the value's channels.
    if result.head_dim * layer.heads != result.width:
        raise RoleError(
            f"'{layer.name}' was taken to have {layer.heads} heads of size {layer.head_dim}, but one query row "
            f"moves {result.head_dim} outputs. This layout is not supported."
        )
    if result.group is not None and result.group * layer.kv_heads != layer.heads:
        raise RoleError(
            f"'{layer.name}' was taken to have {layer.heads} heads over {layer.kv_heads} key/value heads, but one "
            f"key row reaches {result.group} heads. This layout is not supported."
        )
    return replace(layer, kind=result.kind, uses=result.uses, verified=True)


def _described(projection: Projection) -> str:
    if not projection.is_fused:
        return projection.module
    rows = projection.rows
    runs = f" and {rows.repeats - 1} more runs, one every {rows.period}" if rows.repeats > 1 else ""
    return f"{projection.module}, rows {rows.start} to {rows.start + rows.size - 1}{runs}"
