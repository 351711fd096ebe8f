"""Trials on a model: whether it sees later words, and whether examples in one row stay apart."""

from typing import Any

import torch
from torch import nn

from qvtune.device import device_of
from qvtune.roles.modes import evaluating
from qvtune.roles.unwrap import unwrap
from qvtune.tasks.causal.batches import Collator
from qvtune.tasks.causal.loss import token_losses

# Lengths of the examples of a trial: two share a row with another.
LENGTHS = (12, 7, 4, 5)
# Up to this difference, relative to the largest loss, losses count as the same; in half precision to the second.
SAME, SAME_HALF = 1e-4, 5e-2


def sees_later_words(model: nn.Module) -> bool:
    """Return whether what a model says at a position depends on the words after it; then it cannot learn to write."""
    inner: Any = unwrap(model)
    ids = torch.arange(2, 10, device=device_of(inner))[None] % _words(inner)
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % _words(inner)
    with evaluating(inner), torch.no_grad():
        first, second = (inner(input_ids=x).logits[0, :-1].float() for x in (ids, other))
    return bool((first - second).abs().max() > SAME * first.abs().max())


def keeps_apart(model: nn.Module) -> bool:
    """Return whether a model computes the same losses for examples that share a row as for examples of their own.

    Models that carry a state from word to word, or blur neighbours, do not.
    """
    inner: Any = unwrap(model)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for length in LENGTHS:
        ids = torch.randint(0, _words(inner), (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100, *ids[1:]]})
    found = []
    with evaluating(inner), torch.no_grad():
        for packs in (False, True):
            batch = Collator(0, packs=packs)(rows).to(device_of(inner))
            try:
                found.append(token_losses(model, batch).losses.sort().values)
            except Exception:  # a model that takes no positions may raise anything
                return False
    apart = (found[0] - found[1]).abs().max()
    limit = SAME if not torch.is_autocast_enabled(device_of(inner).type) else SAME_HALF
    return bool(apart <= limit * found[0].abs().max())


def _words(inner: Any) -> int:
    return int(inner.get_input_embeddings().weight.shape[0])
