"""Check that a checkpoint gave a model its weights: only weights of the head may be missing."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from qvtune.errors import ModelError

# What torch.compile, data parallel wrappers and activation checkpointing add to the names of what they wrap.
_WITHIN = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# transformers applies each pattern once to a name.
WRAPPERS = {rf"^(?:(?:{'|'.join(('module', *_WITHIN))})\.)+": ""} | {rf"\b{name}\.": "" for name in _WITHIN}
# transformers' name, in every model type, for the part that makes one vector from a text. Other heads do without it.
POOLER = "pooler"
_NUMBERED = re.compile(r"^(.*?)\.(\d+)\.")


def check_loaded(
    source: str, model: Any, loading: Mapping[str, Any], *, new_head: bool, may_lack_head: bool = True
) -> None:
    """Check that every parameter of a model, except its head's and its pooler's, has the weights of the checkpoint.

    Args:
        source: what the user called the checkpoint.
        model: with its head.
        loading: what transformers reports of the loading: `missing_keys`, `mismatched_keys`, `unexpected_keys`.
        new_head: whether weights of the head that do not fit are left out.
        may_lack_head: whether the head may have no weights.

    Raises:
        ModelError: if a parameter has no weights, or weights of another shape; the text names it.
    """
    new_parts = _new_parts(model) if may_lack_head else set()
    parameters = {name for name, _ in model.named_parameters()}
    _check_shapes(source, loading["mismatched_keys"], new_parts, new_head=new_head)
    missing = [name for name in loading["missing_keys"] if name in parameters and name not in new_parts]
    if not missing:
        return
    missing.sort(key=_in_order)
    found = f"the checkpoint has no weights for {_listed(missing)}"
    if layers := _missing_layers(missing, parameters):
        raise ModelError(
            f"model '{source}' cannot be loaded: its config.json says {layers[1]} layers, and the checkpoint has "
            f"{layers[0]}: {found}. Correct the number of layers there, or give the weights of the whole model."
        )
    unused = sorted(loading["unexpected_keys"], key=_in_order)
    beside = f" It has {_listed(unused)}, which the model has not." if unused else ""
    raise ModelError(
        f"model '{source}' cannot be loaded: {found}, so that part would start at random.{beside} Give a checkpoint "
        "of this model type, with the names that save_pretrained writes."
    )


def forget_wrappers(model: Any) -> None:
    """Let a model be saved under its own names: on saving, transformers undoes the renaming of loading."""
    renamings = getattr(model, "_weight_conversions", None)
    if renamings:
        model._weight_conversions = [r for r in renamings if not set(r._original_source_patterns) & set(WRAPPERS)]


def _check_shapes(source: str, misfits: Iterable[tuple[str, Any, Any]], new_parts: set[str], *, new_head: bool) -> None:
    for name, found, wanted in sorted(misfits, key=lambda entry: (entry[0] in new_parts, _in_order(entry[0]))):
        shapes = f"'{name}' is {_shape(found)} in the checkpoint and {_shape(wanted)} in the model"
        if name not in new_parts:
            raise ModelError(
                f"model '{source}' cannot be loaded: {shapes}. Its config.json is of another model than its weights: "
                "give both from one model."
            )
        if not new_head:
            raise ModelError(
                f"model '{source}' cannot be loaded: {shapes}. Its head is for another number of labels; give "
                "--new-head to start the head anew."
            )


def _new_parts(model: Any) -> set[str]:
    """Return the names of parameters that may be new: those outside the base model, and its pooler's."""
    base = model.base_model
    pooler = getattr(base, POOLER, None) or ()
    inside = {id(parameter) for parameter in base.parameters()} - {id(p) for p in pooler and pooler.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) not in inside}


def _missing_layers(missing: list[str], parameters: Iterable[str]) -> tuple[int, int] | None:
    """Return how many layers the checkpoint and the model have, if whole layers at the end are all that is missing."""
    of_layers = {match for name in missing if (match := _NUMBERED.match(name)) is not None}
    stacks = {match[1] for match in of_layers}
    if len(stacks) != 1 or len(of_layers) != len(missing):
        return None
    layers: dict[int, set[str]] = {}
    for name in parameters:
        if (match := _NUMBERED.match(name)) is not None and match[1] in stacks:
            layers.setdefault(int(match[2]), set()).add(name)
    absent = {number for number, names in layers.items() if names <= set(missing)}
    first = len(layers) - len(absent)
    at_the_end = absent == set(range(first, len(layers)))
    whole = set(missing) == {name for number in absent for name in layers[number]}
    return (first, len(layers)) if first and at_the_end and whole else None


def _in_order(name: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in name.split("."))


def _shape(size: Iterable[int]) -> str:
    return " x ".join(map(str, size))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more
