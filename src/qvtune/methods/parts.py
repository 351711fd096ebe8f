"""Methods that train parameters which the model has already."""

from typing import Any

from torch import nn

from qvtune.errors import AdaptError
from qvtune.methods.method import Adaptation
from qvtune.methods.start import START, Start
from qvtune.roles.layouts import ROLES


def train_projections(inner: nn.Module, adaptation: Adaptation) -> None:
    """Make the projections and the head trainable, biases included."""
    for name in adaptation.targets:
        inner.get_submodule(name).requires_grad_(True)
    for projection in adaptation.projections:
        bias: Any = getattr(inner.get_submodule(projection.trained), "bias", None)
        if bias is not None and not projection.bias:  # zeros in a fused bias, where the key has none
            bias.requires_grad_(False)
    for name in (name for projection in adaptation.projections for name in projection.extra):
        inner.get_parameter(name).requires_grad_(True)
    train_head(inner, adaptation)


def train_biases(inner: nn.Module, adaptation: Adaptation) -> None:
    """Make the projections' biases and the head trainable (BitFit, Ben Zaken et al. 2022)."""
    names = [name for projection in adaptation.projections for name in bias_names(projection)]
    inner.__dict__[START] = Start({name: inner.get_parameter(name).data.clone() for name in names}, {})
    for name in names:
        inner.get_parameter(name).requires_grad_(True)
    train_head(inner, adaptation)


def train_head(inner: nn.Module, adaptation: Adaptation) -> None:
    """Make the head trainable."""
    for name in adaptation.head:
        inner.get_submodule(name).requires_grad_(True)


def bias_names(projection: Any) -> list[str]:
    """Name the biases of a projection, once it is split; DeBERTa keeps some outside the module."""
    own = [f"{projection.trained}.bias"] if projection.bias else []
    return own + [name for name in projection.extra if name.endswith("bias")]


def check_biases(adaptation: Adaptation) -> None:
    """Check that every role has a bias.

    Raises:
        AdaptError: naming the first that has none.
    """
    for role in adaptation.roles:
        if not any(bias_names(projection) for projection in adaptation.projections if projection.role == role):
            raise AdaptError(
                f"bitfit trains biases, and the {ROLES[role]} projections of this model have none. Leave role '{role}' "
                "out, or use another method."
            )
