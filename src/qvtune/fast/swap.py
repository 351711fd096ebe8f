"""Classes that change a module's behaviour and keep its type."""

import inspect
from functools import cache
from typing import Any


@cache
def combined(behaviour: type[Any], original: type[Any]) -> type[Any]:
    """Return a subclass of `original` with the forward pass of `behaviour`; `qvtune_plain` leads back."""
    members = {"qvtune_plain": original, "__module__": original.__module__}
    made: Any = type(original.__name__, (behaviour, original), members)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return behaviour.forward(self, *args, **kwargs)

    # transformers reads from the signature which columns of a batch a model takes.
    forward.__signature__ = inspect.signature(original.forward)  # type: ignore[attr-defined]
    made.forward = forward
    return made
