"""`Call`: the arguments of a module's call, to call it again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import Cache


@dataclass(frozen=True)
class Call:
    """Positional and named arguments, without what earlier calls put into a cache."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Call":
        """Record the arguments of a forward pre-hook."""
        without = [None if isinstance(value, Cache) else value for value in (*args, *kwargs.values())]
        return cls(tuple(without[: len(args)]), dict(zip(kwargs, without[len(args) :], strict=True)))

    def repeat(self, module: nn.Module) -> Any:
        """Call a module with these arguments."""
        return module(*self.args, **self.kwargs)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Call":
        """Return the call with every tensor changed, also in tuples, lists and dictionaries."""
        return Call(_mapped(self.args, change), _mapped(self.kwargs, change))


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_mapped(part, change) for part in value)
    if type(value) is dict:
        return {name: _mapped(part, change) for name, part in value.items()}
    return value
