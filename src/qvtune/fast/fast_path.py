"""`make_fast`: everything that makes a model train faster and computes the same."""

from typing import Any

from torch import nn

from qvtune.adaptation import UNDO
from qvtune.arguments import check_model
from qvtune.device import device_of
from qvtune.errors import ConfigError
from qvtune.fast.cpu import attention
from qvtune.fast.cpu.activation import ACTIVATIONS
from qvtune.fast.cpu.pooled import pool_last_layer
from qvtune.fast.cpu.residual import shorten_residual_blocks
from qvtune.fast.dropout import FastDropout
from qvtune.fast.frozen import FastFrozenLinear
from qvtune.fast.lora import FastLora
from qvtune.fast.precision import narrow, resolve_precision, widen
from qvtune.roles.unwrap import unwrap

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# The attribute under which an accelerated transformers model keeps the attention that it had.
_ATTENTION = "qvtune_attention_before"

_FASTER: dict[type, type] = {faster.qvtune_plain: faster for faster in (FastDropout, FastLora)} | ACTIVATIONS


def make_fast(model: nn.Module, *, precision: str = "fp32") -> nn.Module:
    """Make an adapted model train faster, in place, with the same results.

    Dropout draws cheap random bits; LoRA runs as one function that keeps little for its backward pass; on a CPU,
    attention with dropout is computed in few passes; and of an encoder that classifies by its first position, the
    last layer computes that one alone. A second call changes nothing more. `undo_fast` undoes it, as `restore` does.

    Args:
        model: what `adapt` returned. A part that does not fit a model is left out.
        precision: "bf16" also holds frozen weights in bfloat16, for forward passes under `torch.autocast`; "auto" does
            that where the hardware multiplies them faster than float32, and the others never.

    Returns:
        `model`.

    Raises:
        AdaptError: if `model` is no model.
        ConfigError: for another precision.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is '{precision}'; it is one of {', '.join(PRECISIONS)}.")
    check_model(model)
    inner: Any = unwrap(model)
    device = device_of(inner)
    is_narrow = precision != "fp16" and resolve_precision(precision, device) == "bf16"
    for module in model.modules():
        faster = _FASTER.get(type(module))
        frozen = not any(parameter.requires_grad for parameter in module.parameters())
        if type(module) is nn.Linear and is_narrow and frozen:
            faster = FastFrozenLinear
        if faster is not None:
            module.__class__ = faster
    if device.type == "cpu" and getattr(getattr(inner, "config", None), "_attn_implementation", None) == "sdpa":
        attention.register()
        inner.__dict__[_ATTENTION] = inner.config._attn_implementation
        inner.set_attn_implementation(attention.NAME)
        pool_last_layer(model)
    if device.type == "cpu":
        shorten_residual_blocks(model)
    if is_narrow:
        narrow(model)
    inner.__dict__[UNDO] = undo_fast
    return model


def undo_fast(model: nn.Module) -> nn.Module:
    """Undo `make_fast`: every module computes as its library wrote it, with the weights it had or has learned.

    Raises:
        AdaptError: if `model` is no model.
    """
    check_model(model)
    inner: Any = unwrap(model)
    inner.__dict__.pop(UNDO, None)
    widen(model)
    for module in model.modules():
        while (plain := getattr(type(module), "qvtune_plain", None)) is not None:
            module.__class__ = plain
    if _ATTENTION in inner.__dict__:
        inner.set_attn_implementation(inner.__dict__.pop(_ATTENTION))
    return model
