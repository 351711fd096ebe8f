"""Check that a method's options fit a model."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qvtune.errors import AdaptError
from qvtune.roles.attention import Projection
from qvtune.roles.layouts import ROLES

if TYPE_CHECKING:
    from torch import nn


def check_present(roles: str, projections: Sequence[Projection]) -> None:
    """Check that every role has a projection.

    Raises:
        AdaptError: if one has none; the text names it.
    """
    found = {projection.role for projection in projections}
    for role in roles:
        if role not in found:
            raise AdaptError(f"role '{role}' was asked for, and this model has no {ROLES[role]} projection of its own.")


def check_rank(rank: int, projections: Sequence[Projection]) -> None:
    """Check that factors of this rank are smaller than the projections that they change.

    Raises:
        AdaptError: if a projection's own rank is lower; the text names the projection.
    """
    for projection in projections:
        if rank > min(projection.shape):
            (rows, columns), most = projection.shape, min(projection.shape)
            raise AdaptError(
                f"rank is {rank}, and '{projection.module}' is {rows} x {columns}: factors of rank {most} reach every "
                f"change of it. Give a rank of {most} at most, or the method 'full'."
            )


def check_float32(inner: "nn.Module", names: Iterable[str]) -> None:
    """Check that modules whose own parameters train hold enough bits for small updates.

    Raises:
        AdaptError: if one does not; the text names it.
    """
    import torch

    for name in names:
        for path, parameter in inner.named_parameters():
            is_its_own = path == name or path.startswith(f"{name}.")
            if is_its_own and parameter.dtype not in (torch.float32, torch.float64):
                raise AdaptError(
                    f"'{name}' is {str(parameter.dtype).removeprefix('torch.')}; full training in so few bits loses "
                    "small updates. Load the model with dtype=torch.float32 and train under bf16 autocast."
                )
