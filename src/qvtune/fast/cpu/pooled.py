"""Compute the last layer only at the first position, if nothing reads the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qvtune.fast.state import SharedHidden, fast_state, own_state
from qvtune.fast.swap import combined
from qvtune.methods.adapted import adaptation_of
from qvtune.roles.attention import AttentionMap
from qvtune.roles.inputs import candidate_inputs
from qvtune.roles.unwrap import unwrap

# Up to this difference of a logit, relative to the largest logit, the shorter computation counts as the same.
SAME = 1e-5


class PooledClassifier:
    """For a classification model: lets the last layer compute only the first position, unless all are asked for."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the same as the model."""
        shared = _shared_of(self)
        config: Any = self.config  # type: ignore[attr-defined]
        asked = [
            kwargs.get(name, getattr(config, name, None)) for name in ("output_hidden_states", "output_attentions")
        ]
        shared.is_on = not any(asked)
        try:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            shared.is_on = False


class FirstPositionLayer:
    """For a transformer layer: query, attention and feed-forward at the first position; key and value at all.

    Its activations are stored, even where those of other layers are computed again in the backward pass: by then the
    model's own call is over, and the layer would compute every position.
    """

    @property
    def gradient_checkpointing(self) -> bool:
        """Return False; transformers sets it on every layer."""
        return False

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, asked: bool) -> None: ...

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Return the first position's output, with zeros at the others."""
        shared = _shared_of(self)
        if not shared.is_on:
            return super().forward(hidden_states, attention_mask, *args, **kwargs)  # type: ignore[misc]
        if attention_mask is not None:
            attention_mask = attention_mask[..., :1, :]
        shared.hidden = hidden_states
        try:
            first = super().forward(hidden_states[:, :1], attention_mask, *args, **kwargs)  # type: ignore[misc]
        finally:
            shared.hidden = None
        return nn.functional.pad(first, (0, 0, 0, hidden_states.shape[1] - 1))


class AllPositions:
    """For a key or value projection of that layer: projects every position, although it is called with the first."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Project the layer's input."""
        hidden = _shared_of(self).hidden
        return super().forward(x if hidden is None else hidden, *args, **kwargs)  # type: ignore[misc]


def all_positions(attention: nn.Module) -> Tensor | None:
    """Return the hidden states (b, s, d) of a shortened last layer while it calls its attention; otherwise None."""
    return None if (shared := _shared(attention)) is None else shared.hidden


@contextmanager
def computing_with(attention: nn.Module, hidden: Tensor | None) -> Iterator[None]:
    """Let the attention of a shortened last layer be called alone, with the result of `all_positions`."""
    if (shared := _shared(attention)) is None:
        yield
        return
    shared.hidden = hidden
    try:
        yield
    finally:
        shared.hidden = None


def _shared(attention: nn.Module) -> SharedHidden | None:
    states = (fast_state(module) for module in attention.modules())
    return next((state.shared for state in states if state is not None and state.shared is not None), None)


def _shared_of(module: Any) -> SharedHidden:
    state = fast_state(module)
    assert state is not None, "set where the class is"
    assert state.shared is not None, "set where the class is"
    return state.shared


def pool_last_layer(model: nn.Module) -> bool:
    """Shorten the last layer of an adapted encoder that classifies by its first position, unless that is done.

    A trial on the model shows whether it is such an encoder: its logits on a padded batch must stay the same, or
        nothing is changed. Call it before weights are narrowed.

    Returns:
        Whether the last layer is shortened.
    """
    inner: Any = unwrap(model)
    adaptation = adaptation_of(model)
    is_classifier = type(inner).__name__.endswith("ForSequenceClassification")
    if adaptation is None or not is_classifier or isinstance(inner, PooledClassifier):
        return False
    parts = _last_layer(inner, adaptation.attention)
    if parts is None:
        return False
    layer, projections = parts
    inputs = _padded_inputs(inner)
    expected = _logits(inner, inputs)
    if expected is None:
        return False
    swapped = [(inner, PooledClassifier), (layer, FirstPositionLayer), *((p, AllPositions) for p in projections)]
    shared = SharedHidden()
    for module, behaviour in swapped:
        own_state(module).shared = shared
        module.__class__ = combined(behaviour, type(module))  # type: ignore[arg-type]
    logits = _logits(inner, inputs)
    if logits is None or (logits - expected).abs().max() > SAME * expected.abs().max():
        for module, _ in swapped:
            module.__class__ = type(module).qvtune_plain
            own_state(module).shared = None
        return False
    return True


def _last_layer(inner: nn.Module, attention: AttentionMap) -> tuple[nn.Module, list[nn.Module]] | None:
    """Return the last layer and its key and value projections."""
    last = list(attention)[-1]
    path = last.name.split(".")
    numbers = [i for i, part in enumerate(path) if part.isdigit()]
    projections = [p for p in last.projections if p.role in "kv"]
    if not numbers or last.kind != "self" or len(projections) != 2 or any(p.is_fused for p in projections):
        return None
    layer = inner.get_submodule(".".join(path[: numbers[-1] + 1]))
    return layer, [inner.get_submodule(p.module) for p in projections]


def _padded_inputs(inner: nn.Module) -> dict[str, Tensor]:
    """Return two random sequences, the second with padding at its end."""
    ids = next(candidate_inputs(inner))["input_ids"]
    mask = torch.ones_like(ids).repeat(2, 1)
    mask[1, -3:] = 0
    return {"input_ids": torch.cat([ids, ids.flip(1)]), "attention_mask": mask}


def _logits(inner: nn.Module, inputs: dict[str, Tensor]) -> Tensor | None:
    was_training = inner.training
    inner.eval()
    try:
        with torch.no_grad():
            return inner(**inputs).logits.double()
    except Exception:  # a model that needs the whole sequence may raise anything
        return None
    finally:
        inner.train(was_training)
