"""Full training of the projections."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from qvtune.methods.method import Adaptation, Method

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Full(Method):
    """The projections themselves train, biases included."""

    saves: Literal["adapter", "model"] = "model"
    checkpoint: Literal["peft", "model", "trained"] = "model"

    def train(self, inner: "nn.Module", adaptation: Adaptation) -> None:
        """Make the projections trainable."""
        for name in adaptation.targets:
            inner.get_submodule(name).requires_grad_(True)
        for projection in adaptation.projections:
            bias: Any = getattr(inner.get_submodule(projection.trained), "bias", None)
            if bias is not None and not projection.bias:  # zeros in a fused bias if the key has none
                bias.requires_grad_(False)
        for name in (name for projection in adaptation.projections for name in projection.extra):
            inner.get_parameter(name).requires_grad_(True)


FULL = Full("full", "the projections themselves", lr=5e-5, lr_ratio=2.0)
