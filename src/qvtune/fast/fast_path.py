"""`make_fast`: all parts that make a model train faster with the same results."""

from collections.abc import Collection
from typing import Any

from torch import nn

from qvtune.adaptation import UNDO
from qvtune.arguments import check_model
from qvtune.device import device_of
from qvtune.errors import ConfigError
from qvtune.fast.parts import PARTS, Target
from qvtune.fast.precision import resolve_precision, widen
from qvtune.fast.state import drop_states, fast_state
from qvtune.roles.unwrap import unwrap

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def make_fast(model: nn.Module, *, precision: str = "fp32") -> nn.Module:
    """Make an adapted model train faster, in place, with the same results.

    Dropout draws cheap random bits. LoRA runs as one function that saves little for its backward pass. On a CPU,
    attention with dropout is computed in few passes. In an encoder that classifies by its first position, the last
    layer computes only that position. `PARTS` lists all parts. A second call changes nothing. `undo_fast` undoes it,
    and so does `restore`.

    Args:
        model: what `adapt` returned. A part that does not fit a model is left out.
        precision: "bf16" also holds frozen weights in bfloat16, for forward passes under `torch.autocast`. "auto" does
            so if the hardware multiplies bfloat16 faster than float32. Other values never do.

    Returns:
        `model`.

    Raises:
        AdaptError: if `model` is not a model.
        ConfigError: for another precision.
    """
    return apply_parts(model, precision=precision)


def apply_parts(model: nn.Module, *, precision: str, without: Collection[str] = ()) -> nn.Module:
    """Do the same as `make_fast`, without some parts, to measure the gain of each.

    Args:
        model: as for `make_fast`.
        precision: as for `make_fast`.
        without: names of parts to leave out; parts that need them are left out too.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is '{precision}'; it is one of {', '.join(PRECISIONS)}.")
    check_model(model)
    assert set(without) <= {part.name for part in PARTS}, without
    inner: Any = unwrap(model)
    is_narrow = precision != "fp16" and resolve_precision(precision, device_of(inner)) == "bf16"
    target = Target.of(model, is_narrow=is_narrow)
    for part in PARTS:
        if part.apply is not None and part.name not in without and part.needs not in without:
            part.apply(target)
    inner.__dict__[UNDO] = undo_fast
    return model


def undo_fast(model: nn.Module) -> nn.Module:
    """Undo `make_fast`: every module computes as in its library again, with its original or trained weights.

    Raises:
        AdaptError: if `model` is not a model.
    """
    check_model(model)
    inner: Any = unwrap(model)
    inner.__dict__.pop(UNDO, None)
    widen(model)
    for module in model.modules():
        while (plain := getattr(type(module), "qvtune_plain", None)) is not None:
            module.__class__ = plain
    state = fast_state(inner)
    if state is not None and state.attention is not None:
        inner.set_attn_implementation(state.attention)
    drop_states(model)
    return model
