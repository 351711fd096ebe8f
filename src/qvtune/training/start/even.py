"""Let the first token attend evenly, so that an encoder's head reads the mean of the states there.

A head that reads the first token gets what pretraining left there. In models trained for embeddings that is little,
since they were trained on the mean of their states. Attention with a query of zero weights all tokens equally. So a
first token whose query is zero in the last layers reads the mean of their values.

The states of first tokens are nearly the same for every text, and so are their queries q̄. A change of rank one to the
query can therefore remove them and leave the other tokens as they are: B A with A h ≈ 1 for states h of first tokens,
A h ≈ 0 for others, and B ≈ -q̄. That is an ordinary adapter: it trains on like any other, and loads where adapters do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qvtune.methods.method import Adaptation
from qvtune.roles.unwrap import unwrap
from qvtune.training.start.features import Reader, watching

# How many last layers are changed, and how many texts are read to learn the states of their first tokens.
LAYERS = 2
TEXTS = 128
# How many states of other tokens are taken from a text.
OTHERS = 16
# The fraction of the queries that must be removed; otherwise the change is not worth making.
LEFT_AT_MOST = 0.5


@dataclass(frozen=True)
class Change:
    """A change that was added to a query projection, and the call that undoes it."""

    undo: Callable[[], None]
    left: float


def attend_evenly(model: nn.Module, adaptation: Adaptation, reader: Reader, tokens: Dataset) -> list[Change] | None:
    """Change the adapters of the query so that the first token attends evenly in the last layers.

    Args:
        model: what `adapt` returned.
        adaptation: the record of what `adapt` did.
        reader: runs the model.
        tokens: tokenised texts; the first `TEXTS` of them are read.

    Returns:
        The changes, or None with the model unchanged: if the query does not train, or trains in a form to which no
            matrix can be added, if the outputs do not depend on the first token alone, or if its queries are not
            similar enough.
    """
    if "q" not in adaptation.roles:
        return None
    inner: Any = unwrap(model)
    layers = [layer for layer in adaptation.attention.chosen(adaptation.layers) if layer.kind == "self"][-LAYERS:]
    queries = [inner.get_submodule(layer["q"].trained) for layer in layers]
    sample = tokens.select(range(min(TEXTS, len(tokens))))
    if not layers or not all(_can_add(query) for query in queries):
        return None
    if not _reads_first_token(reader, queries[-1], sample):
        return None
    changes: list[Change] = []
    for query in queries:  # the states of a layer depend on the changes in earlier layers
        change = _take_away(query, reader, sample)
        changes.append(change)
        if change.left > LEFT_AT_MOST:
            take_back(changes)
            return None
    return changes


def take_back(changes: list[Change]) -> None:
    """Undo what `attend_evenly` did."""
    for change in reversed(changes):
        change.undo()


def rank_one(first: Tensor, others: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Return a (d,) and b (outputs,) that make (h · a) b nearest to minus the query at first tokens, to 0 at others.

    This is the least-squares solution over all matrices, projected to rank one in the norm of the same objective
    (reduced-rank regression, Izenman 1975). First tokens and other tokens have equal weight.

    Args:
        first: states of first tokens, (n, d).
        others: states of other tokens, (m, d), where m may be 0.
        queries: outputs of the projection for `first`, (n, outputs).
    """
    h, o, q = first.double(), others.double(), queries.double()
    gram = h.T @ h / len(h)
    if len(o):
        gram = gram + o.T @ o / len(o)
    gram = gram + 1e-3 * gram.diagonal().mean() * torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
    best = torch.linalg.solve(gram, -h.T @ q / len(h))  # (d, outputs)
    root = torch.linalg.cholesky(gram)
    direction = torch.linalg.svd(root.T @ best, full_matrices=False).Vh[0]
    return best @ direction, direction


def _take_away(query: Any, reader: Reader, tokens: Dataset) -> Change:
    first, others, queries = _states(query, reader, tokens)
    a, b = rank_one(first, others, queries)
    undo = _add(query, a, b)
    left = (queries.double() + (first.double() @ a)[:, None] * b).norm() / queries.norm()
    return Change(undo, float(left))


def _states(query: nn.Module, reader: Reader, tokens: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inputs at first tokens (n, d) and at other tokens (m, d), and the outputs at first tokens."""
    seen: list[tuple[Tensor, Tensor]] = []
    first, others, queries = [], [], []
    with watching(query, lambda inputs, output: seen.append((inputs, output))):
        for _, batch, _ in reader.batches(tokens):
            inputs, output = (tensor.float() for tensor in seen.pop())
            seen.clear()
            first.append(inputs[:, 0])
            queries.append(output[:, 0])
            if inputs.shape[1] == batch["attention_mask"].shape[1]:
                rest = inputs[:, 1 : 1 + OTHERS]
                others.append(rest[batch["attention_mask"][:, 1 : 1 + OTHERS].bool()])
            else:  # the fast path computes only the first position of the last layer
                others.append(inputs[:, 1:].reshape(-1, inputs.shape[-1]))
    return torch.cat(first), torch.cat(others), torch.cat(queries)


def _reads_first_token(reader: Reader, query: nn.Module, tokens: Dataset) -> bool:
    """Whether the outputs stay the same when the last layer's queries of all other tokens change."""
    few = tokens.select(range(min(8, len(tokens))))

    def outputs() -> Tensor:
        return torch.cat([found.logits.float().flatten() for _, _, found in reader.batches(few)])

    def disturb(inputs: Tensor, output: Tensor) -> Tensor | None:
        if output.ndim != 3:
            return None
        changed = output.clone()
        changed[:, 1:] += 10 * output[:, 1:].abs().mean()
        return changed

    def disturb_first(inputs: Tensor, output: Tensor) -> Tensor | None:
        if output.ndim != 3:
            return None
        changed = output.clone()
        changed[:, :1] *= -1
        return changed

    plain = outputs()
    with watching(query, disturb):
        disturbed = outputs()
    with watching(query, disturb_first):
        other = outputs()
    effect = (other - plain).abs().max()
    return bool(effect > 0 and (disturbed - plain).abs().max() <= 1e-3 * effect)


def _can_add(query: Any) -> bool:
    """Whether a matrix can be added to what a projection trains: plain LoRA that starts at zero, or the full weight."""
    if hasattr(query, "lora_A"):
        name = query.active_adapters[0] if len(query.active_adapters) == 1 else None
        # AdaLoRA's factors are parameters and start differently.
        factor = query.lora_B[name] if name in query.lora_B and name not in query.lora_variant else None
        return isinstance(factor, nn.Linear) and not factor.weight.any()
    return isinstance(query, (nn.Linear, Conv1D)) and query.weight.requires_grad


def _add(query: Any, a: Tensor, b: Tensor) -> Callable[[], None]:
    """Add the map h -> (h · a) b to a projection, and return a function that removes it."""
    if not hasattr(query, "lora_A"):
        weight = query.weight
        before = weight.detach().clone()
        outer = torch.outer(b, a) if isinstance(query, nn.Linear) else torch.outer(a, b)
        weight.data += outer.to(weight)
        return lambda: weight.data.copy_(before)
    name = query.active_adapters[0]
    factor_a, factor_b = query.lora_A[name].weight, query.lora_B[name].weight
    old_a, old_b = factor_a.detach().clone(), factor_b.detach().clone()
    # A's row keeps its initial size, so that dropout and the rate of A act on it as on the other rows.
    size = old_a[0].double().norm() / a.norm()
    factor_a.data[0] = (a * size).to(factor_a)
    factor_b.data[:, 0] = (b / size / query.scaling[name]).to(factor_b)

    def undo() -> None:
        factor_a.data.copy_(old_a)
        factor_b.data.copy_(old_b)

    return undo
