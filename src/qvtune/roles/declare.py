"""`declare_attention`: roles stated by hand, for a layout that the tables do not know. They are measured too."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from qvtune.documents import load_yaml, read_document
from qvtune.errors import RoleError, nearest
from qvtune.roles.attention import AttentionLayer, AttentionMap, FeedForwardLayer, Projection
from qvtune.roles.feed_forward import numbered_networks, with_feed_forward
from qvtune.roles.find import confirmed
from qvtune.roles.layouts import ATTENTION, FEED_FORWARD, ROLES, Rows, rows_of
from qvtune.roles.linear import is_linear, linear_size
from qvtune.roles.locate import common_parent, locate, model_type, numbered
from qvtune.roles.unwrap import unwrap

# A role's modules: their names with * for the layer's number, or such names with the role's rows of the module.
Declared = str | tuple[str, Sequence[int]]


def declare_attention(
    model: nn.Module,
    roles: Mapping[str, Declared],
    *,
    heads: int | None = None,
    verify: bool = True,
    inputs: Mapping[str, Any] | None = None,
) -> AttentionMap:
    """State where roles are, if `find_attention` cannot find them.

    Attention and the feed-forward are declared separately: what is not declared is looked for.

    Args:
        model: a transformers model, or any other module with inputs.
        roles: for q, k and v, and for o if there is one, the name of the module with `*` for the layer's number, such
            as "h.*.attn.query". For a module that holds several roles, a pair of the name and the numbers of this
            role's rows in its output, such as ("h.*.attn.qkv", range(0, 32)). In the same way u and d, and g if there
            is a gate, for the feed-forward.
        heads: number of query heads; needed with q, k and v.
        verify: measure the roles as `find_attention` does, and refuse a declaration that the measurement contradicts.
        inputs: keyword arguments of the model's forward pass in the probe.

    Returns:
        A map for `adapt(attention=...)` and `param_groups(attention=...)`.

    Raises:
        RoleError: if a role is unknown or one of q, k and v, or of u and d, is missing, a name fits no linear layer,
            the roles have different numbers of layers, rows overlap or are left over, or the probe contradicts the
            declaration.
    """
    inner = unwrap(model)
    named = set(roles)
    attending, feeding = named & set(ATTENTION), named & set(FEED_FORWARD)
    is_whole = {"q", "k", "v"} <= attending or not attending
    if named - set(ROLES) or not is_whole or not ({"u", "d"} <= feeding or not feeding) or not named:
        raise RoleError(
            f"roles are {', '.join(map(repr, roles))}; declare q, k, v and, where there is one, o; or u, d and, where "
            "there is one, g; or all of these."
        )
    if attending and heads is None:
        raise RoleError("the number of heads is missing. Give it with q, k and v: heads=N, or 'heads: N' in a file.")
    if attending:
        parts = _by_layer(inner, {role: roles[role] for role in ATTENTION if role in roles})
        layers = [_layer(inner, part, heads or 0) for part in parts]
        attention = AttentionMap(model_type(inner), tuple(numbered(inner, layers)))
    else:
        attention = locate(inner)
    if feeding:
        networks = [
            _network(part) for part in _by_layer(inner, {role: roles[role] for role in FEED_FORWARD if role in roles})
        ]
        attention = replace(attention, feed_forward=tuple(numbered_networks(attention, networks)))
    else:
        attention = with_feed_forward(inner, attention)
    if verify:
        attention = confirmed(inner, attention, inputs)
        if feeding:
            _check_measured(attention, networks)
    return attention


def _by_layer(inner: nn.Module, roles: Mapping[str, Declared]) -> list[tuple[Projection, ...]]:
    """Return the declared projections of each layer."""
    columns = {role: _projections(inner, role, declared) for role, declared in roles.items()}
    counts = {role: len(projections) for role, projections in columns.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{role} {count}" for role, count in counts.items())
        raise RoleError(f"the declared names fit different numbers of layers: {told}. Each needs one per layer.")
    return list(zip(*columns.values(), strict=True))


def _projections(inner: nn.Module, role: str, declared: Declared) -> list[Projection]:
    name, rows = (declared, None) if isinstance(declared, str) else declared
    pattern = re.compile(re.escape(name).replace(r"\*", r"\d+"))
    modules = {path: module for path, module in inner.named_modules() if pattern.fullmatch(path)}
    if not modules:
        known = {re.sub(r"\.\d+(?=\.|$)", ".*", path) for path, module in inner.named_modules() if is_linear(module)}
        raise RoleError(f"role {role}: no module is called '{name}'.{nearest(name, known)}")
    projections = []
    for path, module in modules.items():
        if not is_linear(module):
            raise RoleError(f"role {role}: '{path}' is a {type(module).__name__}; it must be a linear layer.")
        total, width = linear_size(module)
        part = Rows(0, total) if rows is None else _rows(role, path, list(rows), total)
        bias = getattr(module, "bias", None) is not None
        projections.append(Projection(role, path, part, (len(part), width), bias, total))
    return projections


def _rows(role: str, path: str, numbers: list[int], total: int) -> Rows:
    if not numbers or min(numbers) < 0 or max(numbers) >= total or sorted(set(numbers)) != numbers:
        raise RoleError(f"role {role}: rows of '{path}' must be ascending numbers from 0 to {total - 1}, each once.")
    rows = rows_of(numbers)
    if rows is None:
        raise RoleError(f"role {role}: the rows of '{path}' must be runs of one length at one distance.")
    return rows


def _network(parts: tuple[Projection, ...]) -> FeedForwardLayer:
    _check_rows(parts)
    by_role = {part.role: part for part in parts}
    up, down, gate = by_role["u"], by_role["d"], by_role.get("g")
    for part in (up, gate):
        if part is not None and len(part.rows) != down.shape[1]:
            raise RoleError(
                f"'{part.module}' gives {len(part.rows)} rows to the {ROLES[part.role]}, and '{down.module}' takes "
                f"{down.shape[1]} inputs. They must be as many."
            )
    layout = "plain" if gate is None else "declared" if up.is_fused else "separate"
    name = common_parent([part.module for part in parts])
    return FeedForwardLayer(name, 0, "", "dense", layout, parts)


def _check_measured(attention: AttentionMap, declared: Sequence[FeedForwardLayer]) -> None:
    """Check that the measurement left the declared roles of the feed-forward as they are."""
    if attention.unknown:
        part = attention.unknown[0]
        raise RoleError(f"the probe contradicts the declared feed-forward '{part.module}': {part.reason}.")
    for said, layer in zip(declared, attention.feed_forward, strict=True):
        if wrong := [part for part in said.projections if layer[part.role] != part]:
            told = ", ".join(f"{ROLES[part.role]} is '{layer[part.role].module}'" for part in wrong)
            raise RoleError(
                f"the probe contradicts the declared feed-forward '{said.name}': by it, {told}. The product of gate "
                "and up is linear in up's output, and the activation acts on the gate's."
            )


def _check_rows(parts: tuple[Projection, ...]) -> None:
    for module in {part.module for part in parts}:
        taken = sorted(index for part in parts if part.module == module for index in part.rows.indices())
        total = next(part.module_rows for part in parts if part.module == module)
        if taken != list(range(total)):
            raise RoleError(f"'{module}' has {total} rows; declare each of them for one role, and none for two.")


def _layer(inner: nn.Module, parts: tuple[Projection, ...], heads: int) -> AttentionLayer:
    _check_rows(parts)
    query, key = parts[:2]
    if len(query.rows) % heads or heads < 1:
        raise RoleError(
            f"'{query.module}' gives {len(query.rows)} rows to the query, which {heads} heads cannot share."
        )
    size = len(query.rows) // heads
    layout = "declared" if any(part.is_fused for part in parts) else "separate"
    name = common_parent([part.module for part in parts])
    if name in {part.module for part in parts}:  # a single fused module without an output
        name = name.rpartition(".")[0]
    return AttentionLayer(name, 0, "", "self", layout, heads, len(key.rows) // size, size, parts)


def read_declaration(path: Path) -> tuple[dict[str, Declared], int | None]:
    """Read a YAML file with a line for each role: a module's name, or its `module` and `rows` ("0-31,64-95").

    With q, k and v it has `heads` too.

    Returns:
        The roles and the number of heads (None if the file has none), as `declare_attention` takes them.

    Raises:
        RoleError: if it cannot be read or does not have that form.
    """
    try:
        values = load_yaml(read_document(path))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise RoleError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    needs_heads = isinstance(values, dict) and bool({"heads", *ATTENTION} & set(values))
    if not isinstance(values, dict) or (needs_heads and not isinstance(values.get("heads"), int)):
        raise RoleError(f"{path}: must hold 'heads: N', and a line for each role, as in 'q: h.*.attn.query'.")
    return {role: _read_role(path, role, value) for role, value in values.items() if role != "heads"}, values.get(
        "heads"
    )


def _read_role(path: Path, role: str, value: Any) -> Declared:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or set(value) != {"module", "rows"}:
        raise RoleError(f"{path}: {role} must be a module's name, or have 'module' and 'rows'.")
    numbers: list[int] = []
    for part in str(value["rows"]).split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise RoleError(f"{path}: {role}: rows '{part}' are no range such as 0-31.")
        numbers += range(int(first), int(last or first) + 1)
    return value["module"], numbers
