"""The attention of training beside its formula in float64."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from qvtune.train.fast.attention import Attended, attention_forward
from qvtune.train.fast.bits import keep_mask, realized

SHAPE = (3, 4, 9, 8)


def formula(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, keep: Tensor | None, rate: float) -> Tensor:
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    weights = scores.softmax(-1)
    if keep is not None:
        weights = weights * (keep != 0) / (1 - realized(rate))
    return (weights @ v).transpose(1, 2)


def masks() -> dict[str, Tensor | None]:
    padding = torch.ones(SHAPE[0], 1, 1, SHAPE[2], dtype=torch.bool)
    padding[1, ..., -4:] = False
    causal = torch.ones(SHAPE[2], SHAPE[2], dtype=torch.bool).tril()
    return {"none": None, "padding": padding, "causal and padding": padding & causal}


@pytest.mark.parametrize("rate", [0.0, 0.25])
@pytest.mark.parametrize("mask", masks().values(), ids=masks().keys())
def test_output_and_gradients_are_the_formula_s(mask: Tensor | None, rate: float) -> None:
    torch.manual_seed(0)
    given = [torch.randn(SHAPE, requires_grad=True) for _ in range(3)]
    exact = [x.detach().double().requires_grad_() for x in given]
    module = SimpleNamespace(is_causal=False)
    torch.manual_seed(1)
    out, _ = attention_forward(module, *given, mask, dropout=rate)
    torch.manual_seed(1)
    keep = keep_mask(torch.Size((*SHAPE[:3], SHAPE[2])), rate) if rate else None
    expected = formula(*exact, mask, keep, rate)
    gradient = torch.randn_like(out)
    out.backward(gradient)
    expected.backward(gradient.double())
    assert torch.allclose(out.double(), expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(given, exact, strict=True):
        assert torch.allclose(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6)


def test_causal_modules_need_no_mask() -> None:
    q, k, v = (torch.randn(SHAPE) for _ in range(3))
    out, _ = attention_forward(SimpleNamespace(is_causal=True), q, k, v, None)
    expected = formula(q.double(), k.double(), v.double(), masks()["causal and padding"][:1], None, 0.0)
    assert torch.allclose(out.double(), expected, atol=1e-6)


def test_grouped_query_heads_share_keys() -> None:
    q, k, v = torch.randn(SHAPE), torch.randn(3, 2, 9, 8), torch.randn(3, 2, 9, 8)
    module = SimpleNamespace(is_causal=False, num_key_value_groups=2)
    out, _ = attention_forward(module, q, k, v, None)
    doubled = [x.double().repeat_interleave(2, dim=1) for x in (k, v)]
    assert torch.allclose(out.double(), formula(q.double(), *doubled, None, None, 0.0), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kept_for_backward_is_one_tensor_of_probabilities(dtype: torch.dtype) -> None:
    q = torch.randn(2, 2, 50, 8, dtype=dtype, requires_grad=True)
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        Attended.apply(q, q, q, None, 0.5, 0.1)
    assert sizes.count(2 * 2 * 50 * 50) == 1
    assert len(sizes) == 4
