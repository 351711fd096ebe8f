"""Add increments of a few entries of a weight to a model, and remove them."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qvtune.errors import AdaptError
from qvtune.methods.method import Adaptation, Batches
from qvtune.methods.parametrized import original_weight
from qvtune.roles.unwrap import unwrap


class SparseIncrement(nn.Module):
    """Adds `values` (k,) to the entries `indices` (k,) of a weight that is flattened row by row."""

    indices: Tensor

    def __init__(self, weight: Tensor, density: float) -> None:
        super().__init__()
        count = max(1, round(density * weight.numel()))
        self.values = nn.Parameter(torch.zeros(count, dtype=weight.dtype, device=weight.device))
        self.register_buffer("indices", torch.arange(count, dtype=torch.int32, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with the increments."""
        return weight.flatten().index_add(0, self.indices, self.values).view_as(weight)


def add_increments(inner: nn.Module, adaptation: Adaptation) -> None:
    """Add trainable increments, all zero, to every projection."""
    assert adaptation.density is not None
    for name in adaptation.targets:
        module = inner.get_submodule(name)
        increment = SparseIncrement(module.weight, adaptation.density)  # type: ignore[arg-type]
        parametrize.register_parametrization(module, "weight", increment)


def place_increments(inner: nn.Module, adaptation: Adaptation, batches: Batches) -> None:
    """Place the increments where the gradient of the loss over the batches is largest, without dropout.

    Raises:
        AdaptError: if the model gives no loss for a batch.
    """
    originals = {name: original_weight(inner.get_submodule(name)).requires_grad_(True) for name in adaptation.targets}
    device = next(iter(originals.values())).device
    totals = {name: torch.zeros_like(weight) for name, weight in originals.items()}
    was_training = inner.training
    inner.eval()
    try:
        for batch in batches:
            loss = inner(**{name: value.to(device) for name, value in batch.items()}).loss
            if loss is None:
                raise AdaptError("sift needs batches with labels, and the model gave no loss for one. Add 'labels'.")
            gradients = torch.autograd.grad(loss, list(originals.values()), allow_unused=True)
            for name, gradient in zip(originals, gradients, strict=True):
                totals[name] += 0 if gradient is None else gradient
    finally:
        inner.train(was_training)
        for weight in originals.values():
            weight.requires_grad_(False)
    for name, total in totals.items():
        increment = increment_of(inner, name)
        largest = total.flatten().abs().topk(len(increment.indices)).indices
        increment.indices.copy_(largest.sort().values)


def increment_of(inner: nn.Module, name: str) -> SparseIncrement:
    """Return the increments of the projection called `name`."""
    increment = inner.get_submodule(f"{name}.parametrizations.weight")[0]  # type: ignore[index]
    assert isinstance(increment, SparseIncrement)
    return increment


def places(model: nn.Module) -> dict[str, Tensor]:
    """Return the places of all increments by name."""
    buffers = unwrap(model).named_buffers()
    return {name: buffer for name, buffer in buffers if name.endswith("parametrizations.weight.0.indices")}
