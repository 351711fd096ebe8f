"""SIFT: the entries of a projection with the largest gradients train, and the rest stays (Song et al. 2023)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qvtune.methods.method import Adaptation, Batches, Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Sift(Method):
    """Increments of a few entries, whose places are fixed before the first step."""

    density: float | None = 0.05
    batches: int = 8
    decays: bool = False

    def train(self, inner: "nn.Module", adaptation: Adaptation) -> None:
        """Give every projection increments, all zero."""
        from qvtune.methods.sparse import add_increments

        add_increments(inner, adaptation)

    def start(self, adapted: "nn.Module", adaptation: Adaptation, batches: Batches) -> None:
        """Place the increments where the gradients are largest."""
        from qvtune.methods.sparse import place_increments

        place_increments(adapted, adaptation, batches)

    def undo(self, adapted: "nn.Module", adaptation: Adaptation, merge: bool) -> "nn.Module":
        """Remove the increments."""
        from qvtune.methods.parametrized import remove_parametrization

        inner = super().undo(adapted, adaptation, merge)
        for name in adaptation.targets:
            remove_parametrization(inner.get_submodule(name), merge=merge)
        return inner

    def state(self, model: "nn.Module") -> "dict[str, Tensor]":
        """Return the places of the increments."""
        from qvtune.methods.sparse import places

        return places(model)

    def count_beside(self, adaptation: Adaptation, trained: int) -> int:
        """Count a place for every increment."""
        return trained


SIFT = Sift("sift", "the entries with the largest gradients", lr=1e-4, lr_ratio=2.0)
