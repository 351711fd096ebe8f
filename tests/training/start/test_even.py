"""A first token that attends evenly, measured on the attention weights that transformers gives."""

import copy

import numpy as np
import pytest
import torch
from made_up_tokens import make_tokens
from models import build, snapshot
from rich.console import Console
from torch import nn
from transformers import DataCollatorWithPadding

import qvtune
from qvtune.methods.adapted import adaptation_of
from qvtune.tasks.classification import Classification
from qvtune.training.start.even import attend_evenly, rank_one, take_back
from qvtune.training.start.features import Reader


def attending(model: nn.Module, padding) -> list | None:
    task = Classification("made up", ("a", "b"), "classes", "accuracy", ("text",), "label")
    reader = Reader(model, task, padding, 16, "fp32", Console(quiet=True))
    return attend_evenly(model, adaptation_of(model), reader, make_tokens(100))


def attention(model: nn.Module, padding) -> tuple[list[np.ndarray], torch.Tensor]:
    """Weights of every layer, (b, heads, s, s), by transformers' eager attention, and the mask."""
    inner = copy.deepcopy(model.merge_and_unload() if hasattr(model, "merge_and_unload") else qvtune.restore(model))
    inner.set_attn_implementation("eager")
    batch = DataCollatorWithPadding(padding)(make_tokens(12, seed=5).remove_columns("labels").to_list())
    with torch.no_grad():
        return inner(**batch, output_attentions=True).attentions, batch["attention_mask"]


def first_token_deviates(weights: torch.Tensor, mask: torch.Tensor) -> float:
    """How far the first token's weights are from even ones, at most."""
    even = mask / mask.sum(dim=1, keepdim=True)
    return float(((weights[:, :, 0] - even[:, None]).abs() / even.max()).max())


@pytest.mark.parametrize("method", ["lora", "full", "rslora"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_the_first_token_attends_evenly_in_the_last_layers(name: str, method: str, padding) -> None:
    plain = qvtune.adapt(build(name), roles="qv", method=method).eval()
    model = qvtune.adapt(build(name), roles="qv", method=method).eval()
    assert len(attending(model, padding)) == 2
    (before, mask), (after, _) = attention(plain, padding), attention(model, padding)
    assert len(after) == 2
    for old, new in zip(before, after, strict=True):
        if name != "mpnet":  # whose positions have a bias of their own in the product
            assert first_token_deviates(new, mask) < 0.3 * first_token_deviates(old, mask)
    # The first layer changes the others' queries a little, and the second computes from what the first has changed.
    real = mask.bool()[:, None, 1:, None] & mask.bool()[:, None, None, :]
    moved = (before[0] - after[0]).abs()
    assert (moved[:, :, 1:] * real).mean() < 0.25 * moved[:, :, 0].mean()


def test_is_taken_back_bit_for_bit(padding) -> None:
    for method in ("lora", "full"):
        model = qvtune.adapt(build("bert"), roles="qv", method=method).eval()
        before = snapshot(model)
        changes = attending(model, padding)
        assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
        take_back(changes)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {"roles": "qv"}),  # the last token counts
        ("bart", {"roles": "qv"}),  # the end of the decoder counts
        ("bert", {"roles": "v"}),
        ("bert", {"roles": "qv", "method": "dora"}),
        ("bert", {"roles": "qv", "method": "pissa"}),
        ("bert", {"roles": "qv", "method": "bitfit"}),
        ("bert", {"method": "head"}),
    ],
    ids=str,
)
def test_where_it_cannot_be_the_model_stays_as_it_is(name: str, options: dict, padding) -> None:
    model = qvtune.adapt(build(name), **options).eval()
    before = snapshot(model)
    assert attending(model, padding) is None
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_layers_that_are_not_adapted_stay(padding) -> None:
    model = qvtune.adapt(build("bert"), roles="qv", layers=[0]).eval()
    assert attending(model, padding) is None, "the last adapted layer is not the one whose first token is read"


def test_the_fast_path_gives_the_same(padding) -> None:
    plain = qvtune.adapt(build("bert"), roles="qv", dropout=0.0).eval()
    fast = qvtune.make_fast(copy.deepcopy(plain))
    attending(plain, padding), attending(fast, padding)
    batch = DataCollatorWithPadding(padding)(make_tokens(12, seed=5).remove_columns("labels").to_list())
    with torch.no_grad():
        expected, found = plain(**batch).logits, fast(**batch).logits
    assert torch.allclose(expected, found, atol=0.05 * float(expected.std()))


def test_rank_one_is_the_best_of_its_kind() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(40, 6, generator=generator, dtype=torch.float64) * 0.1 + torch.tensor([2.0, 0, 1, 0, 0, -1])
    others = torch.randn(80, 6, generator=generator, dtype=torch.float64)
    queries = torch.randn(40, 5, generator=generator, dtype=torch.float64) * 0.1 + 1

    def objective(a: torch.Tensor, b: torch.Tensor) -> float:
        left = (queries + (first @ a)[:, None] * b).square().sum() / len(first)
        return float(left + ((others @ a)[:, None] * b).square().sum() / len(others))

    a, b = rank_one(first, others, queries)
    best = objective(a, b)
    assert best < 0.5 * objective(torch.zeros(6, dtype=torch.float64), b)
    for _ in range(200):
        moved = objective(
            a + 0.05 * torch.randn(6, generator=generator, dtype=torch.float64) * a.norm(),
            b + 0.05 * torch.randn(5, generator=generator, dtype=torch.float64),
        )
        assert moved > best - 1e-3 * best  # a ridge of a thousandth keeps the solve stable
