"""The attention of training beside its formula in float64."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from rounding import Exact
from torch import Tensor

from qvtune.fast.bits import draw, keep_mask, realized
from qvtune.fast.cpu.attention import AttendedByTorch, attention_forward

SHAPE = (3, 4, 9, 8)


def formula(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, keep: Tensor | None, rate: float) -> Tensor:
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if allowed is not None and allowed.dtype == torch.bool:
        scores = scores.masked_fill(~allowed, -torch.inf)
    elif allowed is not None:
        scores = scores + allowed
    weights = scores.softmax(-1)
    if keep is not None:
        weights = weights * (keep != 0) / (1 - realized(rate))
    return (weights @ v).transpose(1, 2)


def results(attend: Callable[..., Tensor], given: list[Tensor]) -> dict[str, Tensor]:
    """Compute the output and the gradients of query, key and value; `attend` draws the same mask in every call."""
    given = [x.detach().requires_grad_() for x in given]
    torch.manual_seed(1)
    out = attend(*given)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out))
    return {"out": out.detach(), "query": given[0].grad, "key": given[1].grad, "value": given[2].grad}


def accept(ours: Callable[..., Tensor], formula: Callable[..., Tensor], given: list[Tensor]) -> None:
    exact = Exact.of(lambda: results(formula, [x.double() for x in given]))
    exact.accept(results(ours, given), results(formula, given))


def masks() -> dict[str, Tensor | None]:
    padding = torch.ones(SHAPE[0], 1, 1, SHAPE[2], dtype=torch.bool)
    padding[1, ..., -4:] = False
    causal = torch.ones(SHAPE[2], SHAPE[2], dtype=torch.bool).tril()
    return {"none": None, "padding": padding, "causal and padding": padding & causal}


@pytest.mark.parametrize("rate", [0.0, 0.25])
@pytest.mark.parametrize("mask", masks().values(), ids=masks().keys())
def test_output_and_gradients_are_the_formula_s(mask: Tensor | None, rate: float, either: str) -> None:
    torch.manual_seed(0)
    module, sizes = SimpleNamespace(is_causal=False), torch.Size((*SHAPE[:3], SHAPE[2]))
    accept(
        lambda *given: attention_forward(module, *given, mask, dropout=rate)[0],
        lambda *given: formula(*given, mask, keep_mask(sizes, draw(rate)) if rate else None, rate),
        [torch.randn(SHAPE) for _ in range(3)],
    )


def test_causal_modules_need_no_mask(either: str) -> None:
    torch.manual_seed(0)
    accept(
        lambda *given: attention_forward(SimpleNamespace(is_causal=True), *given, None)[0],
        lambda *given: formula(*given, masks()["causal and padding"][:1], None, 0.0),
        [torch.randn(SHAPE) for _ in range(3)],
    )


def test_grouped_query_heads_share_keys(either: str) -> None:
    torch.manual_seed(0)
    module = SimpleNamespace(is_causal=False, num_key_value_groups=2)
    accept(
        lambda *given: attention_forward(module, *given, None)[0],
        lambda q, k, v: formula(q, *(x.repeat_interleave(2, dim=1) for x in (k, v)), None, None, 0.0),
        [torch.randn(SHAPE), torch.randn(3, 2, 9, 8), torch.randn(3, 2, 9, 8)],
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_torch_keeps_one_tensor_of_probabilities_for_backward(dtype: torch.dtype) -> None:
    q = torch.randn(2, 2, 50, 8, dtype=dtype, requires_grad=True)
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        AttendedByTorch.apply(q, q, q, None, 0.5, draw(0.1))
    assert sizes.count(2 * 2 * 50 * 50) == 1
    assert len(sizes) == 4


# Sizes that fill no vector, no tile and no block of rows, and some that fill several.
ODD = [(2, 3, 50, 70, 20), (1, 2, 130, 130, 32), (1, 1, 1, 5, 64), (2, 2, 17, 16, 33), (1, 2, 300, 260, 8)]


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("kind", ["none", "padding", "holes", "by head", "added", "causal"])
@pytest.mark.parametrize("sizes", ODD, ids=str)
def test_kernels_compute_every_size_and_mask(sizes: tuple[int, ...], kind: str) -> None:
    batch, heads, queries, keys, size = sizes
    torch.manual_seed(0)
    q = torch.randn(batch, queries, heads, size).transpose(1, 2)
    k, v = (torch.randn(batch, keys, heads, size).transpose(1, 2) for _ in range(2))
    mask: Tensor | None = None
    if kind == "padding":
        mask = torch.ones(batch, 1, 1, keys, dtype=torch.bool)
        mask[-1, ..., -3:] = False
    if kind in ("holes", "by head"):
        mask = torch.rand(batch, heads if kind == "by head" else 1, queries, keys) > 0.3
        mask[:, 0, :, keys // 2 :] = False
        mask[..., 0] = True
    if kind == "added":
        mask = torch.randn(1, heads, queries, keys)
    module = SimpleNamespace(is_causal=kind == "causal")
    allowed = mask
    if kind == "causal" and queries > 1:
        allowed = torch.ones(queries, keys, dtype=torch.bool).tril()
    accept(
        lambda *given: attention_forward(module, *given, mask, dropout=0.2)[0],
        lambda *given: formula(*given, allowed, keep_mask(torch.Size((batch, heads, queries, keys)), draw(0.2)), 0.2),
        [q, k, v],
    )


@pytest.mark.usefixtures("with_kernels")
def test_heads_that_share_keys_see_what_their_own_masks_show() -> None:
    torch.manual_seed(0)
    q, (k, v) = torch.randn(2, 4, 20, 8), torch.randn(2, 2, 2, 20, 8)
    mask = torch.ones(2, 4, 1, 20, dtype=torch.bool)
    mask[0, 1, :, 15:] = mask[1, 2, :, 3:9] = mask[1, 3, :, 1:] = False
    module = SimpleNamespace(is_causal=False, num_key_value_groups=2)
    accept(
        lambda *given: attention_forward(module, *given, mask)[0],
        lambda q, k, v: formula(q, *(x.repeat_interleave(2, dim=1) for x in (k, v)), mask, None, 0.0),
        [q, k, v],
    )


@pytest.mark.usefixtures("with_kernels")
def test_a_query_that_sees_nothing_gives_zeros_and_no_gradient() -> None:
    q, k, v = (torch.randn(2, 2, 5, 8, requires_grad=True) for _ in range(3))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[0, :, 2] = False
    out, _ = attention_forward(SimpleNamespace(is_causal=False), q, k, v, mask, dropout=0.1)
    assert not out[0, 2].any()
    out.sum().backward()
    assert not q.grad[0, :, 2].any()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at", [0, 1, 2], ids=["query", "key", "value"])
def test_what_is_not_a_number_is_not_hidden(at: int, dtype: torch.dtype) -> None:
    given = [torch.randn(1, 2, 5, 8, dtype=dtype) for _ in range(3)]
    given[at][:, 0] = float("nan")
    given = [x.requires_grad_() for x in given]
    out, _ = attention_forward(SimpleNamespace(is_causal=False), *given, None)
    assert out[:, :, 0].isnan().all()
    assert not out[:, :, 1].isnan().any()
    out.sum().backward()
    assert given[0].grad[:, 0].isnan().all()


@pytest.mark.usefixtures("with_kernels")
def test_in_bfloat16_errors_are_those_of_rounding() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 40, 32, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    torch.manual_seed(1)
    out, _ = attention_forward(SimpleNamespace(is_causal=False), q, k, v, None, dropout=0.1)
    torch.manual_seed(1)
    expected = formula(*exact, None, keep_mask(torch.Size((2, 4, 40, 40)), draw(0.1)), 0.1)
    gradient = torch.randn_like(out)
    out.backward(gradient)
    expected.backward(gradient.double())
    for ours, theirs in ((out, expected), *((x.grad, y.grad) for x, y in zip((q, k, v), exact, strict=True))):
        assert (ours.double() - theirs).norm() < 4e-3 * theirs.norm()  # half a unit in the last place is 2 ** -9


@pytest.mark.usefixtures("with_kernels")
def test_kernels_keep_no_matrix_for_backward() -> None:
    q = torch.randn(2, 2, 50, 8, requires_grad=True)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        attention_forward(SimpleNamespace(is_causal=False), q, q, q, None, dropout=0.1)
    assert max(sizes) == q.numel()
    assert len(sizes) == 4
