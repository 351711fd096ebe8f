"""`Adapted`: qvtune's record of an adapted model, in one attribute of what `adapt` returned."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from qvtune.arguments import check_model
from qvtune.methods.method import Adaptation, Method
from qvtune.methods.table import METHODS
from qvtune.roles.unwrap import unwrap_once

# A pair: A (rank, inputs), B (rows, rank).
Factors = tuple[Tensor, Tensor]

_ATTRIBUTE = "qvtune_adapted"


@dataclass
class Adapted:
    """The state of an adapted model apart from its parameters.

    Attributes:
        adaptation: what was done to it.
        weights: parameters before training, by their name after fused modules are split; `restore(merge=False)`
            restores them.
        factors: the A and B at the start of training, by module, if their product was subtracted from the weights.
    """

    adaptation: Adaptation
    weights: dict[str, Tensor] = field(default_factory=dict)
    factors: dict[str, Factors] = field(default_factory=dict)

    def attach(self, adapted: nn.Module) -> None:
        """Make this the record of a model."""
        adapted.__dict__[_ATTRIBUTE] = self

    def restore(self, inner: nn.Module) -> None:
        """Restore the parameters of a transformers model without adapters."""
        for name, weight in self.weights.items():
            parameter = inner.get_parameter(name)
            parameter.data = weight.to(parameter.device)


def holder_of(model: nn.Module) -> nn.Module | None:
    """Return what `adapt` returned, inside data parallel wrappers and compile, or None if it returned nothing there."""
    current: nn.Module | None = model
    while current is not None and _ATTRIBUTE not in current.__dict__:
        current = unwrap_once(current)
    return current


def record_of(model: nn.Module) -> Adapted | None:
    """Return qvtune's record of an adapted model, or None."""
    holder = holder_of(model)
    return None if holder is None else holder.__dict__[_ATTRIBUTE]


def detach(holder: nn.Module) -> Adapted:
    """Remove the record from what `adapt` returned, and return it."""
    return holder.__dict__.pop(_ATTRIBUTE)


def adaptation_of(model: nn.Module) -> Adaptation | None:
    """Return what `adapt` did to `model` (also inside data parallel wrappers and compile), or None.

    Raises:
        AdaptError: if it is not a model.
    """
    check_model(model)
    record = record_of(model)
    return None if record is None else record.adaptation


def method_of(model: nn.Module) -> Method | None:
    """Return the method by which `model` was adapted, or None."""
    adaptation = adaptation_of(model)
    return None if adaptation is None else METHODS[adaptation.method]
