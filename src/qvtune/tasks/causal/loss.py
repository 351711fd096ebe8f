"""The cross entropy of trained tokens, without logits at the others, and without many logits at a time."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import cross_entropy

from qvtune.device import device_of
from qvtune.roles.modes import evaluating
from qvtune.roles.unwrap import unwrap
from qvtune.tasks.causal.tokens import UNTRAINED

# The logits of so many bytes, in float32, are in memory at a time.
LOGIT_BYTES = 128 * 2**20


class TokenLosses(NamedTuple):
    """Losses of the trained tokens of a batch in nats, (n,) float32, and the row of the batch that each is in, (n,)."""

    losses: Tensor
    rows: Tensor


def token_losses(model: nn.Module, batch: Mapping[str, Any]) -> TokenLosses:
    """Return the losses of a batch's trained tokens.

    What a position says is the token after it, as in transformers. The vocabulary's product, most of the work of a
    small model, is computed only where a token is trained.

    Args:
        model: a causal language model, adapted or not, perhaps wrapped for several processes.
        batch: with `labels`, (b, s), and `UNTRAINED` where no token is trained.
    """
    labels = batch["labels"]
    rows, places = (labels[:, 1:] != UNTRAINED).nonzero(as_tuple=True)
    targets = labels[rows, places + 1]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    vocabulary: Any = unwrap(model).get_output_embeddings()  # type: ignore[operator]
    kept: list[Tensor] = []
    most = 0

    def keep(hidden: Tensor) -> Tensor:
        nonlocal most
        if hidden.shape[:2] != labels.shape:
            return hidden
        kept.append(hidden[rows, places])
        is_frozen = not any(parameter.requires_grad for parameter in vocabulary.parameters())
        most = max(1, LOGIT_BYTES // (4 * vocabulary.weight.shape[0])) if is_frozen else len(targets)
        return kept[0][None, :most]

    with _replacing_input(vocabulary, keep):
        logits = model(**inputs, use_cache=False).logits
    if not kept:  # it computes its logits in some other way
        return TokenLosses(losses_of_logits(logits, labels), rows)
    losses = [cross_entropy(logits[0].float(), targets[:most], reduction="none")]
    if len(targets) > most:
        hidden = kept[0][most:]

        def speak(part: Tensor) -> Tensor:
            return _logits_of(model, vocabulary, part)

        losses.append(ChunkedLosses.apply(hidden, targets[most:], speak, most))
    return TokenLosses(torch.cat(losses), rows)


class ChunkedLosses(Function):
    """The losses of hidden states, (n, d), chunk by chunk.

    The gradient with respect to a hidden state depends on that state alone, so it is computed together with the loss,
    while the chunk's logits are there, and needs (n, d) numbers until the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, speak: Callable[[Tensor], Tensor], size: int) -> Tensor:
        """Compute the losses, (n,), and the gradient of each with respect to its hidden state."""
        losses = torch.empty(len(targets), device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            states = hidden[part].detach().requires_grad_(gradient is not None)
            with torch.set_grad_enabled(gradient is not None):
                own = cross_entropy(speak(states).float(), targets[part], reduction="none")
                losses[part] = own.detach()
                if gradient is not None:
                    (gradient[part],) = torch.autograd.grad(own.sum(), states)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients."""
        (own,) = ctx.saved_tensors
        return own * gradient[:, None].to(own.dtype), None, None, None


def _logits_of(model: nn.Module, vocabulary: nn.Module, hidden: Tensor) -> Tensor:
    """Return the logits of hidden states, (n, d), with whatever the model does to logits, such as a soft limit.

    The model reads a single token, and the hidden states take the place of that token's.
    """
    inner = unwrap(model)
    token = torch.zeros(1, 1, dtype=torch.long, device=device_of(inner))
    with evaluating(inner), _replacing_input(vocabulary, lambda _: hidden[None]):
        return inner(input_ids=token, use_cache=False).logits[0]


@contextmanager
def _replacing_input(module: nn.Module, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    hook = module.register_forward_pre_hook(lambda _, inputs: (replace(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def losses_of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the same from all logits, (b, s, v), and labels, (b, s), of a batch: (n,)."""
    rows, places = (labels[:, 1:] != UNTRAINED).nonzero(as_tuple=True)
    return cross_entropy(logits[rows, places].float(), labels[rows, places + 1], reduction="none")
