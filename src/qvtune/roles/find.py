"""`find_attention`: locate the projections by structure, then measure them on the model itself."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from qvtune.errors import RoleError
from qvtune.roles.attention import AttentionLayer, AttentionMap, Projection
from qvtune.roles.layouts import CROSS_ATTENTION_NAMES, HEAD_DIM_ATTRIBUTES, SEPARATE_LAYOUTS, SeparateLayout
from qvtune.roles.probe import Probed, probe
from qvtune.roles.unwrap import base_layer, unwrap


def find_attention(model: nn.Module, *, verify: bool = True, inputs: Mapping[str, Any] | None = None) -> AttentionMap:
    """Find the query, key, value and output projection of every attention layer of `model`.

    The structure of the modules proposes the roles; a probe then runs the model on one short random input and
    measures them: doubling the value projection doubles the layer's context, a change of the query at one position
    moves that position alone, a change of the key at one position moves others and is not linear. The sizes of heads
    are measured the same way. The model, its modes and the global random state are left as they were.

    Args:
        model: a transformers model, also inside PEFT, DistributedDataParallel or `torch.compile`.
        verify: run the probe. Without it, as on the meta device, layers come back with `verified=False`.
        inputs: keyword arguments for the model's forward pass in the probe, where the ones made from its
            configuration (8 random token ids, or one random image) do not fit.

    Returns:
        The map; module names are relative to the transformers model, without PEFT's prefixes.

    Raises:
        RoleError: if nothing is found, if some modules look like attention and are not understood, or if the probe
            measures something else than the structure says. The text names the modules.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> model = BertModel(BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        ...                              intermediate_size=64, vocab_size=100))
        >>> find_attention(model).layers[1]["v"].module
        'encoder.layer.1.attention.self.value'
    """
    inner = unwrap(model)
    layers = _locate(inner)
    if verify and any(parameter.is_meta for parameter in inner.parameters()):
        raise RoleError(
            "the model is on the meta device, so its roles cannot be measured. "
            "Load its weights, or call find_attention(model, verify=False)."
        )
    if verify:
        layers = [_confirm(layer, result) for layer, result in zip(layers, probe(inner, layers, inputs), strict=True)]
    return AttentionMap(model_type=_model_type(inner), layers=tuple(layers))


def _locate(inner: nn.Module) -> list[AttentionLayer]:
    modules = dict(inner.named_modules())
    encoder_decoder = bool(getattr(getattr(inner, "config", None), "is_encoder_decoder", False))
    counts: Counter[tuple[str, str]] = Counter()
    layers = []
    for name, module in modules.items():
        layout = _matching_layout(module)
        if layout is None:
            continue
        output = _output_name(name, layout, modules)
        if output is None:
            raise RoleError(
                f"'{name}' ({type(module).__name__}) has query, key and value projections but no output projection "
                f"at any of {', '.join(layout.output)}. This layout is not supported."
            )
        stack = _stack(name) if encoder_decoder else ""
        kind = "cross" if CROSS_ATTENTION_NAMES & set(name.split(".")) else "self"
        layers.append(_layer(inner, name, layout, output, modules, stack, kind, counts[stack, kind]))
        counts[stack, kind] += 1
    _refuse_unknown(inner, modules, layers)
    return layers


def _layer(
    inner: nn.Module,
    name: str,
    layout: SeparateLayout,
    output: str,
    modules: dict[str, nn.Module],
    stack: str,
    kind: str,
    index: int,
) -> AttentionLayer:
    names = {"q": f"{name}.{layout.query}", "k": f"{name}.{layout.key}", "v": f"{name}.{layout.value}", "o": output}
    names = {role: path.lstrip(".") for role, path in names.items()}
    projections = tuple(_projection(role, path, modules[path]) for role, path in names.items())
    head_dim = _head_dim(modules[name], getattr(inner, "config", None), projections[0].shape[0])
    return AttentionLayer(
        name=_common_parent(names.values()),
        index=index,
        stack=stack,
        kind=kind,
        layout="separate",
        heads=projections[0].shape[0] // head_dim,
        kv_heads=projections[1].shape[0] // head_dim,
        head_dim=head_dim,
        projections=projections,
    )


def _confirm(layer: AttentionLayer, result: Probed) -> AttentionLayer:
    """Return the layer with what was measured, or raise if the measurement contradicts it."""
    wrong = [
        f"'{layer[role].module}' was taken for the {expected} and behaves like a {measured}"
        for role, expected, measured in (
            ("q", "query", result.roles["q"]),
            ("k", "key", result.roles["k"]),
            ("v", "value", result.roles["v"]),
        )
        if measured != expected
    ]
    if wrong:
        raise RoleError(
            f"the probe contradicts the structure of '{layer.name}': {'; '.join(wrong)}. "
            "Probed: a value scales the context, a query moves its own position alone, a key moves others."
        )
    if result.head_dim is not None and result.head_dim != layer.head_dim:
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


def _matching_layout(module: nn.Module) -> SeparateLayout | None:
    children = dict(module.named_children())
    for layout in SEPARATE_LAYOUTS:
        if all(_is_linear(children.get(child)) for child in (layout.query, layout.key, layout.value)):
            return layout
    return None


def _output_name(name: str, layout: SeparateLayout, modules: dict[str, nn.Module]) -> str | None:
    for relative in layout.output:
        base, path = name, relative
        if path.startswith("../"):
            base, path = name.rpartition(".")[0], path[3:]
        candidate = f"{base}.{path}".lstrip(".")
        if _is_linear(modules.get(candidate)):
            return candidate
    return None


def _refuse_unknown(inner: nn.Module, modules: dict[str, nn.Module], layers: list[AttentionLayer]) -> None:
    """Raise if a module looks like attention and no layer accounts for it, or if there is no layer at all."""
    known = {layer.name for layer in layers}
    unknown = [
        f"{name} ({type(module).__name__}: {children})"
        for name, module in modules.items()
        if re.search(r"attention|attn", type(module).__name__, re.IGNORECASE)
        and not any(name == k or name.startswith(k + ".") or k.startswith(name + ".") for k in known)
        and (children := ", ".join(n for n, child in module.named_children() if _has_matrix(child)))
    ]
    if not layers or unknown:
        found = f"{len(layers)} attention layers were understood" if layers else "no attention layer was found"
        listed = f"; these look like attention and are not: {'; '.join(unknown[:3])}" if unknown else ""
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise RoleError(
            f"model type '{_model_type(inner)}' is not supported: {found}{listed}{more}. Looked for separate query, "
            "key and value projections under the names of "
            + ", ".join(f"{layout.query}/{layout.key}/{layout.value}" for layout in SEPARATE_LAYOUTS)
            + ". Fused matrices are not supported yet."
        )


def _projection(role: str, name: str, module: nn.Module) -> Projection:
    linear = base_layer(module)
    rows, columns = int(linear.out_features), int(linear.in_features)
    return Projection(role=role, module=name, rows=(0, rows), shape=(rows, columns), bias=linear.bias is not None)


def _head_dim(core: nn.Module, config: Any, query_rows: int) -> int:
    for attribute in HEAD_DIM_ATTRIBUTES:
        value = getattr(core, attribute, None)
        if isinstance(value, int) and value > 0:
            return value
    heads = getattr(config, "num_attention_heads", None)
    if isinstance(heads, int) and heads > 0 and query_rows % heads == 0:
        return query_rows // heads
    raise RoleError(f"the size of a head of {type(core).__name__} cannot be told from the module or its configuration.")


def _stack(name: str) -> str:
    return next((part for part in name.split(".") if part in ("encoder", "decoder")), "")


def _common_parent(names: Any) -> str:
    paths = [name.split(".") for name in names]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _is_linear(module: nn.Module | None) -> bool:
    return module is not None and isinstance(base_layer(module), nn.Linear)


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(base_layer(module), "weight", None)
    return weight is not None and weight.dim() >= 2


def _model_type(inner: nn.Module) -> str:
    return str(getattr(getattr(inner, "config", None), "model_type", None) or type(inner).__name__)
