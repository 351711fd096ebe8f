"""Classes that give a module another behaviour and leave it what it is."""

import inspect
from functools import cache
from typing import Any


@cache
def combined(behaviour: type[Any], original: type[Any]) -> type[Any]:
    """Return a subclass of `original` whose forward pass is `behaviour`'s; `qvtune_plain` is the way back."""
    members = {"qvtune_plain": original, "__module__": original.__module__}
    made: Any = type(original.__name__, (behaviour, original), members)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return behaviour.forward(self, *args, **kwargs)

    # transformers reads from it which columns of a batch a model takes.
    forward.__signature__ = inspect.signature(original.forward)  # type: ignore[attr-defined]
    made.forward = forward
    return made
