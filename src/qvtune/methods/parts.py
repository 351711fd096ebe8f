"""Methods that train a small part of the model's own parameters: BitFit, and the head alone."""

from typing import TYPE_CHECKING

from qvtune.errors import AdaptError
from qvtune.methods.method import Adaptation, Method
from qvtune.roles.attention import Projection
from qvtune.roles.layouts import ROLES

if TYPE_CHECKING:
    from torch import Tensor, nn


class BitFit(Method):
    """The projections' biases train (Ben Zaken et al. 2022)."""

    def check(self, adaptation: Adaptation, inner: "nn.Module") -> None:
        """Check that every role has a bias."""
        for role in adaptation.roles:
            if not any(_biases(projection) for projection in adaptation.projections if projection.role == role):
                raise AdaptError(
                    f"bitfit trains biases, and the {ROLES[role]} projections of this model have none. Leave role "
                    f"'{role}' out, or use another method."
                )
        super().check(adaptation, inner)

    def snapshot(self, inner: "nn.Module", adaptation: Adaptation) -> "dict[str, Tensor]":
        """Return copies of the biases."""
        return {name: inner.get_parameter(name).data.clone() for name in _all_biases(adaptation)}

    def train(self, inner: "nn.Module", adaptation: Adaptation) -> None:
        """Make the biases trainable."""
        for name in _all_biases(adaptation):
            inner.get_parameter(name).requires_grad_(True)

    def is_unseen(self, roles: str) -> bool:
        """True for a key without its query: its bias shifts all scores of a query equally; a softmax ignores that."""
        return "k" in roles and "q" not in roles


class Head(Method):
    """Only the head trains."""

    def check(self, adaptation: Adaptation, inner: "nn.Module") -> None:
        """Check that there is a head."""
        if not adaptation.head:
            raise AdaptError(
                "method head trains the head alone, and this model has none. Name modules with head=[...]."
            )
        super().check(adaptation, inner)


def _all_biases(adaptation: Adaptation) -> list[str]:
    return [name for projection in adaptation.projections for name in _biases(projection)]


def _biases(projection: Projection) -> list[str]:
    """Return the names of a projection's biases after it is split; DeBERTa has some outside the module."""
    own = [f"{projection.trained}.bias"] if projection.bias else []
    return own + [name for name in projection.extra if name.endswith("bias")]


BITFIT = BitFit("bitfit", "the projections' biases", lr=4e-4, lr_ratio=2.0)
HEAD = Head("head", "the head alone", lr=1e-3, lr_ratio=None)
