"""Run a model once on a short input, and record how it calls the modules that the probe measures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from qvtune.errors import RoleError
from qvtune.roles.calls import Call
from qvtune.roles.inputs import candidate_inputs


@dataclass
class Calls:
    """The first call of a module, and the number of its calls in one run of the model."""

    first: Call = Call((), {})
    count: int = 0
    in_run: int = 0


def record_calls(
    inner: nn.Module, names: Sequence[str], also: Sequence[str] = (), inputs: Mapping[str, Any] | None = None
) -> dict[str, Calls]:
    """Run a model on a short input, and return the calls of modules by name.

    Args:
        inner: the transformers model.
        names: modules that must be reached.
        also: modules that may be missed; then their `count` is 0.
        inputs: keyword arguments of the model's forward pass; made from its configuration when None.

    Raises:
        RoleError: if the model cannot be run, or a module of `names` is not reached.
    """
    calls = {name: Calls() for name in (*names, *also)}
    if inputs is None and not hasattr(inner, "config"):
        raise RoleError(
            f"{type(inner).__name__} has no configuration to make an input from, so its roles cannot be measured. Give "
            "inputs that it accepts: find_attention(model, inputs={...})."
        )
    failures: list[str] = []
    with ExitStack() as hooks:
        for name, record in calls.items():
            handle = inner.get_submodule(name).register_forward_pre_hook(_recorder(record), with_kwargs=True)
            hooks.callback(handle.remove)
        for wanted in (names, also):
            for part in [inner] if inputs is not None else _parts(inner):
                if all(calls[name].count for name in wanted):
                    break
                inside = {name: calls[name] for name in wanted if _holds(part, inner, name)}
                if any(call.count == 0 for call in inside.values()):
                    given = candidate_inputs(part) if inputs is None else [dict(inputs)]
                    problems = _run(part, given, list(inside.values()), list(calls.values()))
                    failures += problems if wanted is names else []
    missed = [name for name in names if calls[name].count == 0]
    if missed and failures:
        raise RoleError(
            f"the model could not be run on a short input to measure its roles: {failures[0]}. "
            "Give inputs that it accepts: find_attention(model, inputs={...})."
        )
    if missed:
        raise RoleError(
            f"'{missed[0]}' was not reached by a forward pass, so its roles cannot be measured. Give inputs that reach "
            "it: find_attention(model, inputs={...})."
        )
    return calls


def _recorder(record: Calls) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if record.count == 0:
            record.first = Call.of(args, kwargs)
        record.in_run += 1
        record.count = max(record.count, record.in_run)

    return hook


def _run(
    part: nn.Module, candidates: Iterable[dict[str, Any]], wanted: Sequence[Calls], every: Sequence[Calls]
) -> list[str]:
    """Run a model on one input after another until the wanted calls are recorded; return the failures if none works."""
    # A model without its head. In some models its name is that of a part, such as an encoder.
    bodies: list[Any] = list(dict.fromkeys((getattr(part, "base_model", part), part)))
    failures, has_run = [], False
    for given, body in product(candidates, bodies):
        for call in every:
            call.in_run = 0
        try:
            body(**given, use_cache=False) if _takes_cache(part) else body(**given)
            has_run = True
        except Exception as error:
            # Any error is possible here: other inputs may fit, and another part of the model may still run alone.
            failures.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        if all(call.count for call in wanted):
            break
    return [] if has_run else failures


def _parts(inner: nn.Module) -> Iterator[nn.Module]:
    """Yield the model, then the models inside it that can run alone, such as a text and a vision tower."""
    for module in inner.modules():
        if module is inner or isinstance(module, PreTrainedModel):
            yield module


def _holds(part: nn.Module, inner: nn.Module, name: str) -> bool:
    module = inner.get_submodule(name)
    return any(child is module for child in part.modules())


def _takes_cache(inner: nn.Module) -> bool:
    return hasattr(getattr(inner, "config", None), "use_cache")
