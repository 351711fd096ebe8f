"""The fast path's own data on a model beside its parameters: one `FastState` per module concerned."""

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from qvtune.fast.frozen import Packed

# The only attribute of the fast path. No other module of the package reads or writes it.
_ATTRIBUTE = "qvtune_fast"


class SharedHidden(threading.local):
    """Data that a classifier and its shortened last layer share during a forward pass, separately for each thread."""

    def __init__(self) -> None:
        self.is_on = False
        self.hidden: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedHidden":
        return SharedHidden()


@dataclass
class FastState:
    """The fast path's data on a module. `fast_state` reads it, and `drop_states` removes it from a model.

    It belongs to its module: a deep copy of a model, or of a layer, has its own state. The state of a model is that of
    its modules.

    Attributes:
        attention: for a transformers model, its earlier attention implementation.
        originals: for a module with narrowed parameters, the originals by name, in the host's memory.
        hook: for such a module, the hook that puts the originals into its state dict.
        shared: one object for a classifier with a shortened last layer, that layer, and its key and value projections.
        packed: for a frozen layer, a weight and the same weight in the order of the processor's products. It can be
            made again, so copies do not have it.
    """

    attention: str | None = None
    originals: dict[str, Tensor] = field(default_factory=dict)
    hook: RemovableHandle | None = None
    shared: SharedHidden | None = None
    packed: "tuple[Tensor, Packed] | None" = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None}


def fast_state(module: nn.Module) -> FastState | None:
    """Return the fast path's data on a module, or None if there are none."""
    return module.__dict__.get(_ATTRIBUTE)


def own_state(module: nn.Module) -> FastState:
    """Return the fast path's data on a module for writing; create them if needed."""
    state: FastState = module.__dict__.setdefault(_ATTRIBUTE, FastState())
    return state


def drop_states(model: nn.Module) -> None:
    """Remove the states from all modules of a model."""
    for module in model.modules():
        state = module.__dict__.pop(_ATTRIBUTE, None)
        if state is not None and state.hook is not None:
            state.hook.remove()
