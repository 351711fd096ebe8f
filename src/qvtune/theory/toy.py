"""A toy attention layer of any width, and the change of its output by a step through each side (Theorem 2).

There are L tokens of width n, and each is also a query. Scores s = (x W_q)(x W_k)ᵀ / √d contract over the n inputs.
Values v = x w₀ + z b are frozen values plus a factor b, zero at the start, over m features z of each token.
The output is f = s v / L, or softmax(s) v; the loss is ½ mean (f − y)². All numbers are float64.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qvtune.theory.steps import make_optimizer

# L, d and m stay fixed while the width n grows.
TOKENS = 4
HEAD_DIM = 8
RANK = 8

Attention = Literal["linear", "softmax"]
Value = Literal["factor", "full"]

# Root mean squares over the L outputs (L × L scores) of the changes in one step: of the scores, of the values, and of
# the output through the query/key side, through the value side, and through both at once.
QUANTITIES = ("scores", "values", "d1", "d2", "d3")
# A smaller change than this, relative to the output, counts as rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Draw:
    """Random parts of a layer: `tokens` (L, n), `query` and `key` (n, d), `frozen` (L), `factor` (m, n), `targets` (L).

    Entries of the tokens and targets have variance 1, those of matrices variance 1/n, and `frozen` holds x w₀.
    """

    tokens: Tensor
    query: Tensor
    key: Tensor
    frozen: Tensor
    factor: Tensor
    targets: Tensor

    @property
    def width(self) -> int:
        """The number n of inputs."""
        return self.tokens.shape[1]

    def features(self, value: Value) -> Tensor:
        """Return what the trained value contracts over: the m features z = x Aᵀ, or the n inputs themselves."""
        return self.tokens @ self.factor.T if value == "factor" else self.tokens


@dataclass(frozen=True)
class Setting:
    """One layer and its rates η_QK = n^-`query_key` and η_V = n^-`value_rate`."""

    attention: Attention
    value: Value
    query_key: float
    value_rate: float


def draw(seed: int, width: int) -> Draw:
    """Draw a layer; the same seed and width give the same layer."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape))

    tokens, root = normal(TOKENS, width), width**0.5
    query, key = normal(width, HEAD_DIM) / root, normal(width, HEAD_DIM) / root
    return Draw(tokens, query, key, tokens @ normal(width) / root, normal(RANK, width) / root, normal(TOKENS))


def measure(layer: Draw, setting: Setting, optimizer: str, steps: int) -> list[dict[str, float]]:
    """Train a layer, and measure the changes in each step.

    The change of the output in a step is Δf = d1 + d2 + d3 (Yao et al., Theorem 2). The terms come from forward passes
    with one side before the step and the other after it: d1 = f(new, old) − f(old, old), d2 = f(old, new) − f(old,
    old), and d3 is the rest.

    Args:
        layer: where training starts; it is not changed.
        setting: which attention and value, and the rates.
        optimizer: "adam" or "sign".
        steps: number of steps.

    Returns:
        For every step the `QUANTITIES`; a change of the output below rounding is 0. With softmax also `entropy`: the
        attention's entropy in nats after the step, as a mean over the queries; for even attention it is log L.
    """
    features = layer.features(setting.value)
    query, key = (matrix.clone().requires_grad_() for matrix in (layer.query, layer.key))
    factor = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    groups = [
        {"params": [query, key], "lr": layer.width**-setting.query_key},
        {"params": [factor], "lr": layer.width**-setting.value_rate},
    ]
    stepper = make_optimizer(optimizer, groups)
    measured = []
    for _ in range(steps):
        old_scores, old_values = _scores(layer, query, key), layer.frozen + features @ factor
        stepper.zero_grad()
        (0.5 * (_mix(setting.attention, old_scores, old_values) - layer.targets).square().mean()).backward()
        stepper.step()
        with torch.no_grad():
            new_scores, new_values = _scores(layer, query, key), layer.frozen + features @ factor
            changes = _changes(setting.attention, (old_scores, old_values), (new_scores, new_values))
            if setting.attention == "softmax":
                changes["entropy"] = float(torch.special.entr(new_scores.softmax(dim=1)).sum(dim=1).mean())
        measured.append(changes)
    return measured


def _scores(layer: Draw, query: Tensor, key: Tensor) -> Tensor:
    return (layer.tokens @ query) @ (layer.tokens @ key).T / HEAD_DIM**0.5


def _mix(attention: Attention, scores: Tensor, values: Tensor) -> Tensor:
    weights = scores / TOKENS if attention == "linear" else scores.softmax(dim=1)
    return weights @ values


def _changes(attention: Attention, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> dict[str, float]:
    before, after = _mix(attention, *old), _mix(attention, *new)
    query_key_alone, value_alone = _mix(attention, new[0], old[1]), _mix(attention, old[0], new[1])
    d1, d2 = query_key_alone - before, value_alone - before
    terms = {"d1": d1, "d2": d2, "d3": after - before - d1 - d2}
    smallest = ROUNDING * (_rms(before) + _rms(after))
    sizes = {name: size if (size := _rms(term)) > smallest else 0.0 for name, term in terms.items()}
    return {"scores": _rms(new[0] - old[0]), "values": _rms(new[1] - old[1]), **sizes}


def _rms(change: Tensor) -> float:
    return float(change.square().mean().sqrt())
