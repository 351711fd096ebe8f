"""Theorem 1: a bound on the generalisation error of training some roles of a model (Yao et al., IJCAI 2025)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qvtune.errors import ConfigError
from qvtune.roles.attention import AttentionMap, parse_roles

LORA, FULL = "lora", "full"


@dataclass(frozen=True)
class BoundTerm:
    """What one adapted matrix adds: its layer, role and shape, trained numbers, and its part of the bound's square."""

    layer: str
    role: str
    rows: int
    inputs: int
    numbers: int
    share: float


@dataclass(frozen=True)
class Bound:
    """The bound and where it comes from.

    Attributes:
        bound: on the expected difference of the loss between new and training examples, in the loss's own unit.
        numbers: parameters that train in the adapted matrices, as the theorem counts them.
        terms: one per adapted matrix; their shares add up to the bound's square.
        examples: N.
        bits: q, of each trained number.
        sub_gaussian: R, of the loss.
    """

    bound: float
    numbers: int
    terms: tuple[BoundTerm, ...]
    examples: int
    bits: int
    sub_gaussian: float

    def by_role(self) -> dict[str, float]:
        """Return every role's part of the bound's square."""
        parts: dict[str, float] = {}
        for term in self.terms:
            parts[term.role] = parts.get(term.role, 0.0) + term.share
        return parts

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold."""
        from dataclasses import asdict

        return asdict(self) | {"by_role": self.by_role()}


def generalization_bound(
    attention: AttentionMap,
    *,
    roles: str = "qv",
    method: str = LORA,
    rank: int = 8,
    layers: Sequence[int] | None = None,
    examples: int,
    bits: int = 32,
    sub_gaussian: float = 1.0,
) -> Bound:
    """Return Theorem 1's bound for training the chosen roles.

    error ≤ sqrt( (2 R² / N) q Σ n ), with n trained numbers in each adapted matrix: r (d_in + d_out) for LoRA (Theorem 1,
    where query and value give the factor 4 R² and query, key and value 6 R² for equal matrices), and d_in d_out for full
    training, by the same argument. Dimensions are the model's own, also of grouped-query attention and of fused matrices.

    Args:
        attention: where the projections are.
        roles: which train.
        method: "lora" or "full".
        rank: r, of LoRA's factors.
        layers: indices of the layers; all when None.
        examples: N, training examples.
        bits: q, bits of a trained number.
        sub_gaussian: R: the loss is R-sub-Gaussian, as one that stays in an interval of length 2 R is.

    Raises:
        ConfigError: for a number that makes no sense, or another method.
        RoleError: for a role or a layer that the model does not have.
    """
    roles = parse_roles(roles)
    if method not in (LORA, FULL):
        raise ConfigError(f"--method is {method}; the theorem is for lora, and the count for full training beside it.")
    for name, value in (("rank", rank), ("examples", examples), ("bits", bits), ("sub-gaussian", sub_gaussian)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"--{name} is {value}; it must be above 0, and finite.")
    factor = 2.0 * sub_gaussian**2 / examples * bits
    terms = []
    for layer in attention.chosen(layers):
        for projection in layer.projections:
            if projection.role in roles:
                rows, inputs = projection.shape
                numbers = rank * (rows + inputs) if method == LORA else rows * inputs
                terms.append(BoundTerm(layer.name, projection.role, rows, inputs, numbers, factor * numbers))
    total = sum(term.numbers for term in terms)
    return Bound(math.sqrt(factor * total), total, tuple(terms), examples, bits, sub_gaussian)
