"""Real blocks: what is measured, against the same steps taken by hand, and its exponents."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers.models.bert.modeling_bert import BertSelfAttention

import qvtune
from qvtune.theory.blocks import FAMILIES, LENGTH, RATES, SEQUENCES, SIDES, VOCABULARY, measure_block
from qvtune.theory.fit import fit_exponent


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_grows_by_heads(family: str) -> None:
    small, large = (qvtune.find_attention(FAMILIES[family](width)) for width in (64, 128))
    assert [len(found) for found in (small, large)] == [1, 1]
    assert (small.layers[0].heads, large.layers[0].heads) == (2, 4)
    assert small.layers[0].head_dim == large.layers[0].head_dim == 32
    query = FAMILIES[family](256).get_parameter(f"{small.layers[0]['q'].module}.weight")
    assert float(query.detach().var()) * 256 == pytest.approx(1, rel=0.05)


def by_hand(side: str, width: int, seed: int, steps: int) -> list[float]:
    """Train one side of the same BERT with plain transformers and torch, and measure what attention gives."""
    torch.manual_seed(seed)
    model = FAMILIES["bert"](width).eval()
    ids, labels = torch.randint(1, VOCABULARY, (SEQUENCES, LENGTH)), torch.randint(0, 2, (SEQUENCES,))
    (attention,) = (module for module in model.modules() if isinstance(module, BertSelfAttention))
    modules = {"query_key": (attention.query, attention.key), "value": (attention.value,)}[side]
    model.requires_grad_(False)
    for module in modules:
        module.requires_grad_(True)
    optimizer = torch.optim.Adam([p for module in modules for p in module.parameters()], lr=RATES["full"])
    contexts: list[torch.Tensor] = []
    attention.register_forward_hook(lambda module, args, result: contexts.append(result[0].detach().double()))
    for step in range(steps + 1):
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [float((b - a).pow(2).mean().sqrt()) for a, b in pairwise(contexts)]


@pytest.mark.parametrize("side", SIDES)
def test_a_side_of_bert_moves_as_by_hand(side: str) -> None:
    found = measure_block("bert", "full", 64, 5, "adam", 3)
    assert found[side] == pytest.approx(by_hand(side, 64, 5, 3), rel=1e-5)
    assert len(found[side]) == 3
    assert found["value"] != pytest.approx(found["query_key"], rel=1e-2)


def test_the_random_state_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = measure_block("llama", "lora", 64, 2, "adam", 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert measure_block("llama", "lora", 64, 2, "adam", 2) == first
    assert measure_block("llama", "lora", 64, 3, "adam", 2) != first


@pytest.mark.parametrize(("method", "expected"), [("full", 1.0), ("lora", 0.0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_sides_grow_alike_with_the_width(family: str, method: str, expected: float) -> None:
    widths, seeds = [64, 128, 256], range(3)
    found = [[measure_block(family, method, width, seed, "adam", 1) for seed in seeds] for width in widths]
    for side in SIDES:
        exponent = fit_exponent(widths, np.array([[block[side][0] for block in row] for row in found]))
        assert exponent.low - 0.1 <= expected <= exponent.high + 0.1, side
    ratio = np.array([[block["query_key"][0] / block["value"][0] for block in row] for row in found])
    assert abs(fit_exponent(widths, ratio).slope) < 0.4
