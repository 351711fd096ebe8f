"""`make_fast`: everything that makes a model train faster and computes the same."""

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

    Dropout draws cheap random bits; LoRA runs as one function that saves little for its backward pass; on a CPU,
    attention with dropout is computed in few passes; and of an encoder that classifies by its first position, the
    last layer computes that one alone. `PARTS` lists all parts. A second call changes nothing more. `undo_fast` undoes
    it, as `restore` does.

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
    return apply_parts(model, precision=precision)


def apply_parts(model: nn.Module, *, precision: str, without: Collection[str] = ()) -> nn.Module:
    """Do what `make_fast` does, but for some parts: for measuring what each of them brings.

    Args:
        model: as for `make_fast`.
        precision: as for `make_fast`.
        without: names of parts that are left out, and with them those that need them.
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
    state = fast_state(inner)
    if state is not None and state.attention is not None:
        inner.set_attn_implementation(state.attention)
    drop_states(model)
    return model
