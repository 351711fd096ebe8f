"""Theorem 1: a bound on the generalisation error of training some roles of a model (Yao et al., IJCAI 2025)."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any

from qvtune.errors import AdaptError, ConfigError
from qvtune.methods.fitting import check_present, check_rank
from qvtune.methods.resolve import check_layers, resolve_options
from qvtune.methods.table import METHODS
from qvtune.roles.attention import AttentionMap, Layer, parse_roles
from qvtune.roles.layouts import ROLES

LORA, FULL = "lora", "full"


@dataclass(frozen=True)
class BoundTerm:
    """The contribution of one adapted matrix to the square of the bound.

    Attributes:
        layer: name of its attention layer.
        index: number of that layer, as in `layers`.
        role: "query", "key", "value" or "output".
        module: the projection, or the fused matrix that holds it.
        rows: d_out, rows of the role's own part.
        inputs: d_in.
        numbers: how many numbers train in it: r (d_in + d_out), or d_in d_out in full.
        share: its share of all terms' numbers, from 0 to 1.
    """

    layer: str
    index: int
    role: str
    module: str
    rows: int
    inputs: int
    numbers: int
    share: float


@dataclass(frozen=True)
class RolePart:
    """The contribution of a role: its numbers, their share of all, and the bound if it trained alone."""

    numbers: int
    share: float
    bound: float


@dataclass(frozen=True)
class Bound:
    """The bound, its terms and its arguments.

    Attributes:
        bound: bound on the expected difference of the loss between new and training examples, in the loss's own unit.
        numbers: how many numbers train in the adapted matrices, over all terms.
        terms: one per adapted matrix, in model order.
        ratio: the bound for roles "qv" divided by that for "qkv", on the same layers; √(2/3) for matrices of equal
            size.
        rank: r; None for full training.
    """

    bound: float
    numbers: int
    terms: tuple[BoundTerm, ...]
    ratio: float
    roles: str
    method: str
    rank: int | None
    layers: tuple[int, ...] | None
    examples: int
    bits: int
    sub_gaussian: float

    def by_role(self) -> dict[str, RolePart]:
        """Return the contribution of every role, by its name."""
        numbers: dict[str, int] = {}
        for term in self.terms:
            numbers[term.role] = numbers.get(term.role, 0) + term.numbers
        return {
            role: RolePart(number, number / self.numbers, self.bound * math.sqrt(number / self.numbers))
            for role, number in numbers.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold."""
        return asdict(self) | {"by_role": {role: asdict(part) for role, part in self.by_role().items()}}


def generalization_bound(
    attention: AttentionMap,
    *,
    roles: str = "qv",
    method: str = LORA,
    rank: int | None = None,
    layers: Sequence[int] | None = None,
    examples: int,
    bits: int = 32,
    sub_gaussian: float = 1.0,
) -> Bound:
    """Return Theorem 1's bound for training the chosen roles of a model.

    error ≤ √( (2 R² / N) q Σ n ), summed over every adapted matrix, with n = r (d_in + d_out) numbers in its factors.
    This is Theorem 1 of Yao et al., IJCAI 2025; its 4 R² for query and value and 6 R² for query, key and value are this
    sum if all matrices of a layer have equal sizes. In full training n = d_in d_out, by the same argument. The error is
    the expected loss on a new example minus the mean loss on the training examples, in absolute value. Sizes are the
    model's own, also for grouped-query, fused and cross attention; a module that is called for several layers counts
    once. Biases and the head are not part of the theorem.

    Args:
        attention: the attention map from `find_attention`; the model may be without weights.
        roles: which roles train, as for `adapt`.
        method: "lora" or "full".
        rank: r of LoRA's factors; 8 when None; not an option of "full".
        layers: indices of the layers that train, negative ones from the end; all when None.
        examples: N, the number of training examples.
        bits: q, the bits in which a trained number is stored.
        sub_gaussian: R, in the loss's unit. By Hoeffding's lemma a loss that stays in an interval of length 2 R is
            R-sub-Gaussian. Cross entropy and squared error have no largest value, so for them any R is an assumption.

    Raises:
        AdaptError: for a method that the theorem does not cover, a rank that makes no sense or is above a projection's
            own, layers that are not numbers, or a role that the model does not have.
        ConfigError: for `examples` or `bits` below 1 or not whole, or `sub_gaussian` that is not above 0 and finite.
        RoleError: for an unknown role, or a layer that does not exist.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> from qvtune.roles.find import find_attention
        >>> model = BertModel(BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        ...                              intermediate_size=64, vocab_size=100))
        >>> bound = generalization_bound(find_attention(model), roles="qv", rank=4, examples=1000)
        >>> bound.numbers, round(bound.bound, 3)  # 4 matrices of 4 (32 + 32) numbers; √(2/1000 · 32 · 1024)
        (1024, 8.095)
    """
    if method in METHODS and method not in (LORA, FULL):
        raise AdaptError(
            f"method is '{method}'; Theorem 1 counts the numbers in LoRA's factors, or in whole matrices. It is for "
            f"the methods {LORA} and {FULL}."
        )
    rank = resolve_options(method, roles=roles, layers=layers, rank=rank)["rank"]
    check_layers(layers)
    _check_numbers(examples, bits, sub_gaussian)
    return _bound(attention, parse_roles(roles), method, rank, layers, int(examples), int(bits), float(sub_gaussian))


def _bound(
    attention: AttentionMap,
    roles: str,
    method: str,
    rank: int | None,
    layers: Sequence[int] | None,
    examples: int,
    bits: int,
    sub_gaussian: float,
) -> Bound:
    roles = attention.present(roles)
    chosen: list[Layer] = [*attention.chosen(layers), *attention.chosen_feed_forward(layers)]
    projections = attention.projections(roles, layers)
    check_present(roles, projections)
    if rank is not None:
        check_rank(rank, projections)
    terms = _terms(chosen, roles, rank)
    total = sum(term.numbers for term in terms)
    pair, three = (sum(term.numbers for term in _terms(chosen, names, rank)) for names in ("qv", "qkv"))
    return Bound(
        bound=math.sqrt(2.0 * sub_gaussian**2 * bits * total / examples),
        numbers=total,
        terms=terms,
        ratio=math.sqrt(pair / three),
        roles=roles,
        method=method,
        rank=rank,
        layers=None if layers is None else tuple(layers),
        examples=examples,
        bits=bits,
        sub_gaussian=sub_gaussian,
    )


def _check_numbers(examples: int, bits: int, sub_gaussian: float) -> None:
    for name, value in (("examples", examples), ("bits", bits)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ConfigError(f"{name} is {value!r}; it must be at least 1, and whole.")
    is_number = isinstance(sub_gaussian, Real) and not isinstance(sub_gaussian, bool)
    if not is_number or not 0 < sub_gaussian < math.inf:
        raise ConfigError(f"sub_gaussian is {sub_gaussian!r}; it must be a number above 0, and finite.")


def _terms(layers: Sequence[Layer], roles: str, rank: int | None) -> tuple[BoundTerm, ...]:
    found = []
    for layer in layers:
        for projection in layer.projections:
            if projection.role in roles:
                rows, inputs = projection.shape
                numbers = rows * inputs if rank is None else rank * (rows + inputs)
                found.append((layer, projection, numbers))
    total = sum(numbers for _, _, numbers in found)
    return tuple(
        BoundTerm(layer.name, layer.index, ROLES[p.role], p.module, *p.shape, numbers, numbers / total)
        for layer, p, numbers in found
    )
