"""What the fast path holds of a model beside its parameters: a `FastState` of each module concerned, and no more."""

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from qvtune.fast.frozen import Packed

# The one attribute of the fast path. No other module of the package reads or writes it.
_ATTRIBUTE = "qvtune_fast"


class SharedHidden(threading.local):
    """What a classifier and its shortened last layer know of each other during a forward pass, a thread for itself."""

    def __init__(self) -> None:
        self.is_on = False
        self.hidden: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedHidden":
        return SharedHidden()


@dataclass
class FastState:
    """What the fast path holds of a module. `fast_state` reads it, and `drop_states` takes it off a model.

    It belongs to its module: a deep copy of a model, or of a layer, has a state of its own. That of a model is what its
    modules have.

    Attributes:
        attention: of a transformers model, the attention implementation that it had before.
        originals: of a module with narrowed parameters, these as they were, by name, in the host's memory.
        hook: of such a module, what gives them to its state dict.
        shared: of a classifier whose last layer is shortened, of that layer, and of its key and value projections: one
            object for all of them.
        packed: of a frozen layer, a weight and the same in the order of the processor's products. It can be made again,
            so no copy has it.
    """

    attention: str | None = None
    originals: dict[str, Tensor] = field(default_factory=dict)
    hook: RemovableHandle | None = None
    shared: SharedHidden | None = None
    packed: "tuple[Tensor, Packed] | None" = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None}


def fast_state(module: nn.Module) -> FastState | None:
    """Return what the fast path holds of a module, or None where that is nothing."""
    return module.__dict__.get(_ATTRIBUTE)


def own_state(module: nn.Module) -> FastState:
    """Return what the fast path holds of a module, to be written to."""
    state: FastState = module.__dict__.setdefault(_ATTRIBUTE, FastState())
    return state


def drop_states(model: nn.Module) -> None:
    """Take the states off all modules of a model."""
    for module in model.modules():
        state = module.__dict__.pop(_ATTRIBUTE, None)
        if state is not None and state.hook is not None:
            state.hook.remove()
