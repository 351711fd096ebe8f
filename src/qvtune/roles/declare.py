"""`declare_attention`: roles stated by hand, for a layout that the tables do not know. They are measured too."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from qvtune.documents import load_yaml, read_document
from qvtune.errors import RoleError, nearest
from qvtune.roles.attention import AttentionLayer, AttentionMap, Projection
from qvtune.roles.find import confirmed
from qvtune.roles.layouts import ROLES, Rows, rows_of
from qvtune.roles.linear import is_linear, linear_size
from qvtune.roles.locate import common_parent, model_type, numbered
from qvtune.roles.unwrap import unwrap

# A role's modules: their names with * for the layer's number, or such names with the role's rows of the module.
Declared = str | tuple[str, Sequence[int]]


def declare_attention(
    model: nn.Module,
    roles: Mapping[str, Declared],
    *,
    heads: int,
    verify: bool = True,
    inputs: Mapping[str, Any] | None = None,
) -> AttentionMap:
    """State where query, key, value and output are, if `find_attention` cannot find them.

    Args:
        model: a transformers model, or any other module with inputs.
        roles: for q, k and v, and for o if there is one, the name of the module with `*` for the layer's number, such
            as "h.*.attn.query". For a module that holds several roles, a pair of the name and the numbers of this
            role's rows in its output, such as ("h.*.attn.qkv", range(0, 32)).
        heads: number of query heads.
        verify: measure the roles as `find_attention` does, and refuse a declaration that the measurement contradicts.
        inputs: keyword arguments of the model's forward pass in the probe.

    Returns:
        A map for `adapt(attention=...)` and `param_groups(attention=...)`.

    Raises:
        RoleError: if a role is unknown or q, k or v is missing, a name fits no linear layer, the roles have different
            numbers of layers, rows overlap or are left over, or the probe contradicts the declaration.
    """
    inner = unwrap(model)
    unknown = set(roles) - set(ROLES)
    if unknown or not {"q", "k", "v"} <= set(roles):
        raise RoleError(f"roles are {', '.join(map(repr, roles))}; declare q, k, v and, where there is one, o.")
    columns = {role: _projections(inner, role, roles[role]) for role in "qkvo" if role in roles}
    counts = {role: len(projections) for role, projections in columns.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{role} {count}" for role, count in counts.items())
        raise RoleError(f"the declared names fit different numbers of layers: {told}. Each needs one per layer.")
    layers = [_layer(inner, parts, heads) for parts in zip(*columns.values(), strict=True)]
    attention = AttentionMap(model_type(inner), tuple(numbered(inner, layers)))
    return confirmed(inner, attention, inputs) if verify else attention


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


def _layer(inner: nn.Module, parts: tuple[Projection, ...], heads: int) -> AttentionLayer:
    for module in {part.module for part in parts}:
        taken = sorted(index for part in parts if part.module == module for index in part.rows.indices())
        total = next(part.module_rows for part in parts if part.module == module)
        if taken != list(range(total)):
            raise RoleError(f"'{module}' has {total} rows; declare each of them for one role, and none for two.")
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


def read_declaration(path: Path) -> tuple[dict[str, Declared], int]:
    """Read a YAML file with `heads`, and for each role a module's name or its `module` and `rows` ("0-31,64-95").

    Returns:
        The roles and the number of heads, as `declare_attention` takes them.

    Raises:
        RoleError: if it cannot be read or does not have that form.
    """
    try:
        values = load_yaml(read_document(path))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise RoleError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not isinstance(values.get("heads"), int):
        raise RoleError(f"{path}: must hold 'heads: N', and a line for each role, as in 'q: h.*.attn.query'.")
    return {role: _read_role(path, role, value) for role, value in values.items() if role != "heads"}, values["heads"]


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
