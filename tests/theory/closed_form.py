"""The toy layer's steps as formulas, in numpy and float64, with gradients written by hand."""

from typing import NamedTuple

import numpy as np

LENGTH, HEAD = 4, 8


class Step(NamedTuple):
    """What one step changes: the scores (L, L), the values (L), and the output's three terms (L)."""

    scores: np.ndarray
    values: np.ndarray
    d1: np.ndarray
    d2: np.ndarray
    d3: np.ndarray


def softmax(s: np.ndarray) -> np.ndarray:
    e = np.exp(s - s.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def steps(x, wq, wk, frozen, z, y, *, attention: str, rates: tuple[float, float], number: int) -> list[Step]:
    """Return sign descent's steps; the terms are d1 = ΔP v, d2 = P Δv, d3 = ΔP Δv with P = s / L or softmax(s)."""
    wq, wk, b = wq.copy(), wk.copy(), np.zeros(z.shape[1])
    weigh = softmax if attention == "softmax" else (lambda s: s / LENGTH)
    found = []
    for _ in range(number):
        q, k, v = x @ wq, x @ wk, frozen + z @ b
        s = q @ k.T / np.sqrt(HEAD)
        p = weigh(s)
        error = (p @ v - y) / LENGTH  # the derivative of ½ mean (f − y)²
        dp = np.outer(error, v)
        ds = p * (dp - (p * dp).sum(axis=1, keepdims=True)) if attention == "softmax" else dp / LENGTH
        dq, dk = ds @ k / np.sqrt(HEAD), ds.T @ q / np.sqrt(HEAD)
        step_q, step_k = -rates[0] * np.sign(x.T @ dq), -rates[0] * np.sign(x.T @ dk)
        dv = z @ (-rates[1] * np.sign(z.T @ (p.T @ error)))
        # Δs has a term through the query, one through the key, and their product.
        change = (x @ step_q @ k.T + q @ (x @ step_k).T + (x @ step_q) @ (x @ step_k).T) / np.sqrt(HEAD)
        weights = weigh(s + change) - p
        found.append(Step(change, dv, weights @ v, p @ dv, weights @ dv))
        wq, wk = wq + step_q, wk + step_k
        b = b - rates[1] * np.sign(z.T @ (p.T @ error))
    return found
