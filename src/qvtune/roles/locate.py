"""Locate the projections of a model by structure: children, their names and sizes, and the tables of layouts."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from qvtune.errors import RoleError
from qvtune.roles.attention import BY_HAND, AttentionLayer, AttentionMap, Projection, WithoutRoles
from qvtune.roles.layouts import (
    BIASES,
    CROSS_ATTENTION_NAMES,
    FURTHER,
    FUSED_LAYOUTS,
    GATED_QUERIES,
    HEAD_DIM_ATTRIBUTES,
    HEADS_ATTRIBUTES,
    LATENT_KEY_VALUE,
    LATENT_QUERIES,
    OUTPUTS,
    PAIRED_HEADS,
    SEPARATE_LAYOUTS,
    SHARES_KEYS,
    WITHOUT_KEY_BIAS,
    WITHOUT_ROLES_BY_CHILD,
    WITHOUT_ROLES_BY_CLASS,
    WRAPPED,
    FusedLayout,
    Rows,
    blocks,
)
from qvtune.roles.linear import is_linear, linear_size
from qvtune.roles.multihead import can_split
from qvtune.roles.relative import is_relative, raw_size
from qvtune.roles.unwrap import base_layer


def locate(inner: nn.Module) -> AttentionMap:
    """Find the layers of a transformers model by structure alone.

    Raises:
        RoleError: if nothing is found, or some modules look like attention but are not understood.
    """
    modules = dict(inner.named_modules())
    found = [layer for name in modules if (layer := _layer(inner, name, modules)) is not None]
    others = _others(modules)
    _refuse_unknown(inner, modules, found, others)
    return AttentionMap(model_type(inner), tuple(numbered(inner, found)), tuple(others))


def _layer(inner: nn.Module, name: str, modules: dict[str, nn.Module]) -> AttentionLayer | None:
    """Return the attention layer whose query, key and value are children of the module called `name`, or None."""
    core = modules[name]
    children = _linear_children(core)
    if _without_roles(core) is not None:
        return None
    proposed = (
        _multihead(core, name)
        or _relative(core, name)
        or _separate(core, name, children)
        or _fused(inner, core, name, children)
        or _latent(core, name, children)
        or _query_alone(core, name, children)
    )
    if proposed is None:
        return None
    layout, projections = proposed
    output = _output_name(name, modules, {p.module for p in projections})
    if output is not None:
        projections = (*projections, whole_projection("o", output, modules[output]))
    projections = tuple(_with_extra(core, name, projection) for projection in projections)
    by_role = {projection.role: projection for projection in projections}
    query_rows = len(by_role["q"].rows)
    head_dim = _head_dim(inner, core, len(by_role["v"].rows) if layout == "latent" else query_rows)
    heads = _heads(inner, core, query_rows) or max(1, query_rows // head_dim)
    if re.search(PAIRED_HEADS, type(core).__name__):
        head_dim, heads = 2 * head_dim, query_rows // (2 * head_dim)
    kv_heads = heads if layout == "latent" or "k" not in by_role else len(by_role["k"].rows) // head_dim
    return AttentionLayer(
        name=common_parent([child_name(name, "-"), output]) if output else name,
        index=0,
        stack="",
        kind="cross" if CROSS_ATTENTION_NAMES & set(name.split(".")) else "self",
        layout=layout,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        projections=(*projections, *_further(name, modules)),
    )


Proposed = tuple[str, tuple[Projection, ...]]


@dataclass(frozen=True)
class Child:
    """A linear layer at or below a child of an attention module, and the path from that module to it."""

    path: str
    module: nn.Module


def _linear_children(core: nn.Module) -> dict[str, Child]:
    found = {}
    for name, child in core.named_children():
        inside = getattr(child, WRAPPED, None)
        if is_linear(child):
            found[name] = Child(name, child)
        elif isinstance(inside, nn.Module) and is_linear(inside) and len(list(child.children())) == 1:
            found[name] = Child(f"{name}.{WRAPPED}", inside)
    return found


def _located(name: str, children: dict[str, Child], child: str) -> tuple[str, nn.Module]:
    return child_name(name, children[child].path), children[child].module


def _separate(core: nn.Module, name: str, children: dict[str, Child]) -> Proposed | None:
    for layout in SEPARATE_LAYOUTS:
        names = {"q": layout.query, "k": layout.key, "v": layout.value}
        if all(child in children for child in names.values()):
            parts = [whole_projection(role, *_located(name, children, child)) for role, child in names.items()]
            size = _declared_head_dim(core)
            if size and re.search(GATED_QUERIES, type(core).__name__):
                heads = len(parts[0].rows) // (2 * size)
                parts[0] = projection_of("q", *_located(name, children, names["q"]), Rows(0, size, 2 * size, heads))
            return "separate", tuple(parts)
    return None


def _multihead(core: Any, name: str) -> Proposed | None:
    if not can_split(core):
        return None
    weight, bias = core.in_proj_weight, core.in_proj_bias is not None
    size = weight.shape[1]
    rows = blocks((1, 1, size))
    parts = (Projection(role, name, rows[role], (size, size), bias, 3 * size) for role in "qkv")
    return "multihead", tuple(parts)


def _relative(core: nn.Module, name: str) -> Proposed | None:
    if not is_relative(core):
        return None
    sizes = {role: raw_size(core, role) for role in "qkvo"}
    parts = (Projection(r, child_name(name, r), Rows(0, size[0]), size, False, size[0]) for r, size in sizes.items())
    return "relative", tuple(parts)


def _query_alone(core: nn.Module, name: str, children: dict[str, Child]) -> Proposed | None:
    """Return the query of a layer that takes its keys and values from an earlier one."""
    if not any(getattr(core, mark, False) for mark in SHARES_KEYS):
        return None
    query = next((layout.query for layout in SEPARATE_LAYOUTS if layout.query in children), None)
    return ("separate", (whole_projection("q", *_located(name, children, query)),)) if query else None


def _fused(inner: nn.Module, core: nn.Module, name: str, children: dict[str, Child]) -> Proposed | None:
    for layout in FUSED_LAYOUTS:
        if not layout.is_for(type(core).__name__) or layout.fused not in children:
            continue
        if (layout.query is None) != (layout.query not in children):
            continue
        rows = _fused_rows(inner, core, layout, children)
        if rows is None:
            continue
        path, module = _located(name, children, layout.fused)
        parts = {role: projection_of(role, path, module, part) for role, part in rows.items()}
        if re.search(WITHOUT_KEY_BIAS, type(core).__name__):
            parts["k"] = replace(parts["k"], bias=False)
        if layout.query is not None:
            parts["q"] = whole_projection("q", *_located(name, children, layout.query))
        return layout.name, tuple(parts[role] for role in "qkv")
    return None


def _fused_rows(
    inner: nn.Module, core: nn.Module, layout: FusedLayout, children: dict[str, Child]
) -> dict[str, Rows] | None:
    """Return the rows of each role in a fused module, or None if its size does not fit the layout."""
    total, width = linear_size(children[layout.fused].module)
    heads = _heads(inner, core, 0)
    if layout.query is not None:
        return layout.arrangement((1, 1, total // 2)) if total % 2 == 0 else None
    if heads is None:
        return None
    # With equal sizes for query, key and value, a third of the rows are queries; the size of a head shows fewer keys.
    size = next((s for s in (_declared_head_dim(core), width // heads, total // (3 * heads)) if s), 0)
    groups, rest = divmod(total - heads * size, 2 * size)
    if rest or not 0 < groups <= heads or heads % groups:
        size, groups = total // (3 * heads), heads
    return layout.arrangement((heads, groups, size)) if (heads + 2 * groups) * size == total else None


def _latent(core: nn.Module, name: str, children: dict[str, Child]) -> Proposed | None:
    query = next((child for child in LATENT_QUERIES if child in children), None)
    key_size, value_size = getattr(core, "qk_nope_head_dim", None), getattr(core, "v_head_dim", None)
    if query is None or LATENT_KEY_VALUE not in children or not key_size or not value_size:
        return None
    path, module = _located(name, children, LATENT_KEY_VALUE)
    period = key_size + value_size
    heads = linear_size(module)[0] // period
    return "latent", (
        whole_projection("q", *_located(name, children, query)),
        projection_of("k", path, module, Rows(0, key_size, period, heads)),
        projection_of("v", path, module, Rows(key_size, value_size, period, heads)),
    )


def numbered(inner: nn.Module, layers: list[AttentionLayer]) -> Iterable[AttentionLayer]:
    """Give each layer its stack, and its number among the layers of its stack and kind."""
    encoder_decoder = bool(getattr(getattr(inner, "config", None), "is_encoder_decoder", False))
    stacks = [_side(layer.name) if encoder_decoder else re.split(r"\.\d+(?:\.|$)", layer.name)[0] for layer in layers]
    if len(set(stacks)) == 1:
        stacks = [stacks[0] if encoder_decoder else ""] * len(layers)
    counts: Counter[tuple[str, str]] = Counter()
    for layer, stack in zip(layers, stacks, strict=True):
        yield replace(layer, stack=stack, index=counts[stack, layer.kind])
        counts[stack, layer.kind] += 1


def _further(name: str, modules: dict[str, nn.Module]) -> Iterable[Projection]:
    """Yield the projections that a role has beside its first one."""
    for role, paths in FURTHER.items():
        names = (beside(name, path) for path in paths)
        yield from (whole_projection(role, path, modules[path]) for path in names if is_linear(modules.get(path)))


def _output_name(name: str, modules: dict[str, nn.Module], taken: set[str]) -> str | None:
    for relative in OUTPUTS:
        path = beside(name, relative)
        for candidate in (path, f"{path}.{WRAPPED}"):
            if candidate not in taken and is_linear(modules.get(candidate)):
                return candidate
    return None


def beside(name: str, path: str) -> str:
    """Return the name of the module at a path relative to the module `name`; "../" is its parent."""
    return child_name(name.rpartition(".")[0], path[3:]) if path.startswith("../") else child_name(name, path)


def _others(modules: dict[str, nn.Module]) -> list[WithoutRoles]:
    return [
        WithoutRoles(name, type(module).__name__, reason)
        for name, module in modules.items()
        if (reason := _without_roles(module)) is not None
    ]


def _without_roles(module: nn.Module) -> str | None:
    for pattern, reason in WITHOUT_ROLES_BY_CLASS.items():
        if re.search(pattern, type(module).__name__):
            return reason
    names = {name for name, _ in module.named_children()} | set(module._parameters)
    return next((reason for mark, reason in WITHOUT_ROLES_BY_CHILD.items() if mark in names), None)


def _refuse_unknown(
    inner: nn.Module, modules: dict[str, nn.Module], layers: list[AttentionLayer], others: list[WithoutRoles]
) -> None:
    """Raise if a module looks like attention but is not in the tables, or if there is no layer at all."""
    known = {layer.name for layer in layers} | {
        p.module.rpartition(".")[0] for layer in layers for p in layer.projections
    }
    known |= {other.module for other in others}
    unknown = [
        f"{name} ({type(module).__name__}: {children})"
        for name, module in modules.items()
        if re.search(r"attention|attn", type(module).__name__, re.IGNORECASE)
        and not any(name == k or name.startswith(k + ".") or k.startswith(name + ".") for k in known)
        and (children := ", ".join(n for n, child in module.named_children() if _has_matrix(child)))
    ]
    if layers and not unknown:
        return
    kind = model_type(inner)
    if not layers and not unknown and others:
        raise RoleError(
            f"model type '{kind}' has no query, key and value projections that can be adapted: '{others[0].module}' "
            f"({others[0].class_name}) is {others[0].reason}."
        )
    found = f"{len(layers)} attention layers were understood" if layers else "no attention layer was found"
    listed = f"; these look like attention and are not understood: {'; '.join(unknown[:3])}" if unknown else ""
    more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
    raise RoleError(f"model type '{kind}' is not supported: {found}{listed}{more}. State the roles by hand: {BY_HAND}.")


def whole_projection(role: str, path: str, module: nn.Module) -> Projection:
    """Return the projection of a role that has a module of its own."""
    return projection_of(role, path, module, Rows(0, linear_size(module)[0]))


def projection_of(role: str, path: str, module: nn.Module, rows: Rows) -> Projection:
    """Return the projection of a role that has these rows of a module."""
    total, inputs = linear_size(module)
    bias = base_layer(module).bias is not None
    return Projection(role, path, rows, (len(rows), inputs), bias, total)


def _with_extra(core: nn.Module, name: str, projection: Projection) -> Projection:
    """Add the role's parameters beside its module: a separate bias."""
    bias = BIASES[projection.role]
    parameter = core._parameters.get(bias)
    is_own = parameter is not None and parameter.numel() == len(projection.rows)
    return replace(projection, extra=(child_name(name, bias),)) if is_own else projection


def _head_dim(inner: nn.Module, core: nn.Module, rows: int) -> int:
    """Return the size of a head; if neither the module nor its configuration names one, there is one head."""
    return _declared_head_dim(core) or rows // (_heads(inner, core, rows) or 1)


def _declared_head_dim(core: nn.Module) -> int | None:
    return _whole_number(core, HEAD_DIM_ATTRIBUTES)


def _heads(inner: nn.Module, core: nn.Module, rows: int) -> int | None:
    """Return the number of heads that the module or a configuration names and that divides `rows`, or None."""
    for source in (core, getattr(core, "config", None), getattr(inner, "config", None)):
        heads = _whole_number(source, HEADS_ATTRIBUTES)
        if heads and rows % heads == 0:
            return heads
    return None


def _whole_number(source: Any, attributes: Iterable[str]) -> int | None:
    values = (_read(source, name) for name in attributes)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None)


def _read(source: Any, name: str) -> Any:
    try:
        return getattr(source, name, None)
    except RuntimeError:  # a configuration whose layers differ refuses to name one size
        return None


def _side(name: str) -> str:
    return next((part for part in name.split(".") if part in ("encoder", "decoder")), "")


def child_name(parent: str, child: str) -> str:
    """Return the name of a child of a module; the model's own name is empty."""
    return f"{parent}.{child}".lstrip(".")


def common_parent(names: Iterable[str]) -> str:
    """Return the name of the smallest module that holds all of these."""
    paths = [name.split(".") for name in names]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(base_layer(module), "weight", None)
    return weight is not None and weight.dim() >= 2


def model_type(inner: nn.Module) -> str:
    """Return the model type from the configuration, or the name of the class."""
    return str(getattr(getattr(inner, "config", None), "model_type", None) or type(inner).__name__)
