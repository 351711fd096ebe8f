"""Add PEFT's layers to a transformers model, and remove them."""

import warnings
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from qvtune.methods.method import Adaptation
from qvtune.roles.unwrap import unwrap


def put_on(inner: Any, adaptation: Adaptation, make_config: Callable[[dict[str, Any]], Any]) -> nn.Module:
    """Return PEFT's model around `inner`, which is unchanged if PEFT raises.

    Args:
        inner: the transformers model.
        adaptation: which modules are adapted, and which are the head.
        make_config: makes the configuration from the arguments that all methods share.
    """
    from peft import get_peft_model

    common = {
        "task_type": _task_type(inner, adaptation.head),
        "target_modules": adaptation.targets,
        "modules_to_save": list(adaptation.head) or None,
    }
    structure = [(module, _copied(module.__dict__)) for module in inner.modules()]
    try:
        with warnings.catch_warnings():
            # PEFT looks for this under its earlier name in transformers' models.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            adapted = get_peft_model(inner, make_config(common))
    except BaseException:  # PEFT cannot undo half of its work
        for module, attributes in structure:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        raise
    _keep_head_in_float32(unwrap(adapted), adaptation.head)
    return adapted


def take_off(adapted: Any, head: Sequence[str], *, merge: bool) -> nn.Module:
    """Return the transformers model without PEFT's layers; the trained head gets its earlier type back."""
    inner = unwrap(adapted)
    if not hasattr(adapted, "peft_config"):
        return inner
    dtypes = _head_dtypes(inner, head)
    _unwrap_head(inner, head)
    inner = adapted.merge_and_unload() if merge else adapted.unload()
    for name, dtype in dtypes.items():
        inner.get_submodule(name).to(dtype)
    return inner


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Copy a module's attributes, with its dictionaries of children, parameters, buffers and hooks."""
    return {name: copy(value) if isinstance(value, dict) else value for name, value in attributes.items()}


def _keep_head_in_float32(inner: nn.Module, head: Sequence[str]) -> None:
    """Convert a head that was loaded in half precision, and its inputs, to float32."""
    for name in head:
        module = inner.get_submodule(name)
        trained = [p for p in module.parameters() if p.requires_grad]
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in trained):
            for parameter in trained:
                parameter.data = parameter.data.float()
            module.register_forward_pre_hook(_float_inputs)


def _unwrap_head(inner: nn.Module, head: Sequence[str]) -> None:
    """Put the trained head in its place. PEFT does that too, but for (IA)³ and VeRA only for a single layer."""
    for name in head:
        parent, _, child = name.rpartition(".")
        wrapper: Any = inner.get_submodule(name)
        setattr(inner.get_submodule(parent), child, wrapper.modules_to_save[wrapper.active_adapters[0]])


def _head_dtypes(inner: nn.Module, head: Sequence[str]) -> dict[str, torch.dtype]:
    originals: dict[str, Any] = {name: inner.get_submodule(name) for name in head}
    return {name: p.dtype for name, wrapper in originals.items() for p in wrapper.original_module.parameters()}


def _float_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if getattr(module, "disable_adapters", False):
        return args  # this is the original, in half precision
    return tuple(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def _task_type(inner: nn.Module, head: Sequence[str]) -> str | None:
    """Return PEFT's name of the task, or None if PEFT would then train a module that `head` does not name."""
    added = {name for name, _ in inner.named_modules() if name.endswith(("classifier", "score"))}
    for suffix, task in (("ForSequenceClassification", "SEQ_CLS"), ("ForTokenClassification", "TOKEN_CLS")):
        if type(inner).__name__.endswith(suffix) and added <= set(head):
            return task
    return None
