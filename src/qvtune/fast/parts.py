"""`PARTS`: the parts of the fast path, one entry each, in the order in which they are applied."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from qvtune.device import device_of
from qvtune.fast.cpu import attention
from qvtune.fast.cpu.activation import ACTIVATIONS
from qvtune.fast.cpu.pooled import pool_last_layer
from qvtune.fast.cpu.residual import shorten_residual_blocks
from qvtune.fast.dropout import FastDropout
from qvtune.fast.frozen import FastFrozenLinear
from qvtune.fast.lora import FastLora
from qvtune.fast.precision import narrow
from qvtune.fast.state import own_state
from qvtune.roles.unwrap import unwrap


class Target(NamedTuple):
    """A model to make fast, the transformers model in it, and whether its frozen weights become bfloat16."""

    model: nn.Module
    inner: Any
    is_narrow: bool

    @classmethod
    def of(cls, model: nn.Module, *, is_narrow: bool) -> "Target":
        """Return a target for a model, adapted or not."""
        return cls(model, unwrap(model), is_narrow)

    @property
    def is_on_cpu(self) -> bool:
        """Whether the model is on a CPU."""
        return device_of(self.inner).type == "cpu"

    @property
    def implementation(self) -> str | None:
        """The model's attention implementation, by transformers' name; None for a model from elsewhere."""
        return getattr(getattr(self.inner, "config", None), "_attn_implementation", None)


@dataclass(frozen=True)
class Part:
    """One part of the fast path.

    Attributes:
        name: its name in tables and for `without`.
        does: what it does, for the ablation's page.
        by: what applies it: "model" is `make_fast` by `apply`, "loop" the training loop, "process" the kernels'
            compilation.
        apply: for a part of the model, applies it. Nothing changes if it does not fit the model, or the model already
            has it.
        needs: a part that this one needs to work.
    """

    name: str
    does: str
    by: Literal["model", "loop", "process"] = "model"
    apply: Callable[[Target], None] | None = None
    needs: str | None = None


def _swap(kinds: Mapping[type, type]) -> Callable[[Target], None]:
    """Return a function that gives modules of exactly these classes their faster class."""

    def apply(target: Target) -> None:
        for module in target.model.modules():
            if (faster := kinds.get(type(module))) is not None:
                module.__class__ = faster

    return apply


def _pack_weights(target: Target) -> None:
    for module in target.model.modules():
        if type(module) is not nn.Linear or any(parameter.requires_grad for parameter in module.parameters()):
            continue
        if target.is_narrow or module.weight.dtype == torch.bfloat16:
            module.__class__ = FastFrozenLinear


def _compute_attention(target: Target) -> None:
    if target.is_on_cpu and target.implementation == "sdpa":
        attention.register()
        own_state(target.inner).attention = target.implementation
        target.inner.set_attn_implementation(attention.NAME)


def _shorten_last_layer(target: Target) -> None:
    # Another implementation does not separate the keys that one query has viewed.
    if target.is_on_cpu and target.implementation == attention.NAME:
        pool_last_layer(target.model)


def _shorten_residual_blocks(target: Target) -> None:
    if target.is_on_cpu:
        shorten_residual_blocks(target.model)


def _narrow_weights(target: Target) -> None:
    if target.is_narrow:
        narrow(target.model)


PARTS = (
    Part(
        "dropout",
        "Masks from few random bits, made again for the backward pass.",
        apply=_swap({nn.Dropout: FastDropout}),
    ),
    Part(
        "LoRA",
        "One function whose low-rank products go into the output in place.",
        apply=_swap({FastLora.qvtune_plain: FastLora}),
    ),
    Part("activations", "The slope is computed with the value.", apply=_swap(ACTIVATIONS)),
    Part("packed weights", "Frozen bfloat16 weights in the order of the processor's products.", apply=_pack_weights),
    Part("attention", "Attention with dropout that holds no matrix of scores.", apply=_compute_attention),
    # This is tried on the model, whose outputs must stay the same, so it comes before weights are rounded.
    Part(
        "last layer",
        "Computed at the first position alone, where nothing reads the others.",
        apply=_shorten_last_layer,
        needs="attention",
    ),
    Part("residual blocks", "Dropout, sum and norm in one pass.", apply=_shorten_residual_blocks),
    Part(
        "bfloat16 weights",
        "Frozen weights are held in bfloat16, and not rounded anew in every step.",
        apply=_narrow_weights,
    ),
    Part("batches by length", "Texts of similar length meet in a batch, so that little is padded.", by="loop"),
    Part("kept memory", "The process holds the memory that a step frees.", by="loop"),
    Part("kernels", "All of these by kernels compiled for the processor; without, by torch.", by="process"),
)
