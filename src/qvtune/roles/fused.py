"""Split the fused projections of a model, and join them again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from qvtune.roles.attention import AttentionMap, Projection
from qvtune.roles.layouts import Rows, rows_of
from qvtune.roles.linear import is_linear, linear_size
from qvtune.roles.multihead import SplitMultihead, can_split
from qvtune.roles.relative import SplitRelative, is_relative, raw_size
from qvtune.roles.split import REST, Split, SplitProjection


def split(inner: nn.Module, attention: AttentionMap, projections: Sequence[Projection]) -> list[str]:
    """Replace the fused modules behind `projections` by split ones, everywhere in the model.

    Returns:
        Names of the modules that were split.
    """
    names = {name for projection in projections if (name := _to_split(inner, projection)) is not None}
    for name in names:
        fused = inner.get_submodule(name)
        if isinstance(fused, Split):
            continue  # shared with an earlier layer
        whole = _split_as_a_whole(fused)
        _replace(inner, fused, whole(fused) if whole else SplitProjection(fused, _rows_by_part(attention, name)))
    return sorted(names)


def join(inner: nn.Module) -> list[str]:
    """Join every split module of `inner` again.

    Returns:
        Names of the modules that were joined.
    """
    joined = list(split_modules(inner))
    for _, module in joined:
        _replace(inner, module, module.join())
    return [name for name, _ in joined]


def split_modules(inner: nn.Module) -> Iterator[tuple[str, Split]]:
    """Yield the name and module of every split module."""
    for name, module in inner.named_modules():
        if isinstance(module, Split):
            yield name, module


def misfit(inner: nn.Module, attention: AttentionMap) -> str | None:
    """Say which part of a map the model lacks, or return None if it has all."""
    modules = dict(inner.named_modules())
    for projection in (p for layer in attention.every for p in layer.projections):
        size = _size(modules, projection.module)
        if size is None:
            return f"has no '{projection.module}'"
        wanted = (projection.module_rows, projection.shape[1])
        if size != wanted:
            return f"has {size[1]} to {size[0]} in '{projection.module}', not {wanted[1]} to {wanted[0]}"
    return None


@contextmanager
def taken_apart(inner: nn.Module) -> Iterator[None]:
    """Let torch's and XLNet's attention call their projections inside the block, and restore them afterwards."""
    swapped = [(m, split(m, keep=True)) for m in inner.modules() if (split := _split_as_a_whole(m)) is not None]
    for fused, apart in swapped:
        _replace(inner, fused, apart)
    try:
        yield
    finally:
        for fused, apart in swapped:
            _replace(inner, apart, fused)


def _split_as_a_whole(module: nn.Module) -> type[SplitMultihead] | type[SplitRelative] | None:
    """Return the class that replaces a whole attention module, if it calls no layer for a role, or None."""
    if can_split(module):
        return SplitMultihead
    return SplitRelative if is_relative(module) else None


def _size(modules: dict[str, nn.Module], name: str) -> tuple[int, int] | None:
    """Return (rows, inputs) of the module or parameter of a projection, or None if there is none."""
    module: Any = modules.get(name)
    parent, _, child = name.rpartition(".")
    if module is None:
        return raw_size(modules[parent], child) if is_relative(modules.get(parent)) else None
    if can_split(module):
        return tuple(module.in_proj_weight.shape)
    return linear_size(module) if is_linear(module) else None


def _rows_by_part(attention: AttentionMap, name: str) -> dict[str, Rows]:
    parts = [p for layer in attention.every for p in layer.projections if p.module == name]
    rows = {p.role: p.rows for p in parts}
    taken = {row for part in rows.values() for row in part.indices()}
    left = [row for row in range(parts[0].module_rows) if row not in taken]
    rest = rows_of(left) if left else None
    assert rest is not None or not left, f"the rows of '{name}' that are no role's are no regular runs"
    return rows | ({REST: rest} if rest else {})


def _to_split(inner: nn.Module, projection: Projection) -> str | None:
    parent = projection.module.rpartition(".")[0]
    if parent and _split_as_a_whole(inner.get_submodule(parent)):
        return parent  # for example for the output projection of torch's attention
    return projection.module if projection.is_fused else None


def _replace(inner: nn.Module, old: nn.Module, new: nn.Module) -> None:
    # A module that several layers share is in several places.
    places = [(parent, name) for parent in inner.modules() for name, child in parent._modules.items() if child is old]
    for parent, name in places:
        setattr(parent, name, new)
