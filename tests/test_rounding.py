"""Rounding passes, and a mistake of a tenth of a thousandth does not."""

import copy
from collections.abc import Callable

import pytest
import torch
from models import batch, build
from rounding import EPS, Exact, Float64
from torch import Tensor, nn

WIDTH, POSITIONS = 32, 24
SEEN = torch.ones(POSITIONS, POSITIONS, dtype=torch.bool).tril()


def attention(x: Tensor, weights: list[Tensor], key_bias: Tensor, seen: Tensor = SEEN, factor: float = 1.0) -> Tensor:
    q, k, v = (x @ weight for weight in weights)
    scores = q @ (k + key_bias).T * (factor / WIDTH**0.5)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


def by_blocks(x: Tensor, weights: list[Tensor], key_bias: Tensor) -> Tensor:
    """The same, in another order: sums over blocks of inputs, and a softmax without its maximum taken off."""
    q, k, v = (sum(x[:, i : i + 4] @ weight[i : i + 4] for i in range(0, WIDTH, 4)) for weight in weights)
    odds = torch.where(SEEN, (q @ (k + key_bias).T / WIDTH**0.5).exp(), 0)
    return odds @ v / odds.sum(-1, keepdim=True)


def results(compute: Callable[..., Tensor], dtype: torch.dtype = torch.float32, **changes: object) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, *weights = (
        (torch.randn(n, WIDTH, generator=generator) / n**0.5).to(dtype).requires_grad_()
        for n in (POSITIONS, WIDTH, WIDTH, WIDTH)
    )
    key_bias = torch.randn(WIDTH, generator=generator).to(dtype).requires_grad_()
    out = compute(x, weights, key_bias, **changes)
    out.backward(torch.randn(out.shape, generator=generator).to(dtype))
    names = ("x", "query", "key", "value")
    return {"out": out.detach(), "key bias": key_bias.grad} | {
        name: tensor.grad for name, tensor in zip(names, (x, *weights), strict=True)
    }


@pytest.fixture(scope="module")
def exact() -> Exact:
    return Exact.of(lambda: results(attention, torch.float64))


def test_another_order_is_rounding(exact: Exact) -> None:
    ours, plain = results(by_blocks), results(attention)
    assert not torch.equal(ours["out"], plain["out"])
    exact.accept(ours, plain)


def test_what_cancels_is_measured_against_its_terms(exact: Exact) -> None:
    # A key's bias moves all scores of a query alike: its gradient is zero, and what is computed is rounding alone.
    assert exact.values["key bias"].norm() < 1e-14
    plain = results(attention)
    assert plain["key bias"].norm() > 1e-9
    term = exact.values["key"].norm() / WIDTH**0.5
    assert EPS * term / 10 < exact.rounding["key bias"] < 10 * EPS * term
    exact.accept(results(by_blocks), plain)
    assert set(exact.refuse({**plain, "key bias": plain["key bias"] + 1e-4 * term / WIDTH**0.5}, plain)) == {"key bias"}


@pytest.mark.parametrize(
    "change",
    [{"factor": 1.0001}, {"seen": SEEN.clone().fill_diagonal_(False).index_fill(0, torch.tensor(0), True)}],
    ids=["a factor", "the diagonal hidden"],
)
def test_a_wrong_formula_is_refused(change: dict, exact: Exact) -> None:
    plain = results(attention)
    assert {"out", "query", "key", "value"} <= exact.refuse(results(attention, **change), plain).keys()


def test_one_wrong_position_of_a_mask_is_refused(exact: Exact) -> None:
    seen = SEEN.clone()
    seen[3, 4] = True
    assert "out" in exact.refuse(results(attention, seen=seen), results(attention))


@pytest.mark.parametrize("name", ["out", "x", "query", "key", "value"])
def test_every_tensor_alone_is_refused(name: str, exact: Exact) -> None:
    plain = results(attention)
    for wrong in (plain[name] * (1 + 1e-4), plain[name] * (1 - 1e-5), plain[name].roll(1, 0), plain[name] * torch.nan):
        assert exact.refuse({**plain, name: wrong}, plain).keys() == {name}
    one = plain[name].clone()
    one[2, 3] += 1e-4 * one.abs().max()
    assert exact.refuse({**plain, name: one}, plain).keys() == {name}


def loss_and_gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    loss = model(**batch()).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def tanh_for_erf(model: nn.Module) -> None:
    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = nn.GELU(approximate="tanh")


def larger_epsilon(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def without_a_bias(model: nn.Module) -> None:
    model.bert.encoder.layer[1].attention.self.value.bias.data[3] = 0


@pytest.mark.parametrize("change", [tanh_for_erf, larger_epsilon, without_a_bias])
def test_a_model_that_computes_something_near_is_refused(change: Callable[[nn.Module], None]) -> None:
    plain = build("bert")
    wide, other = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    exact = Exact.of(lambda: loss_and_gradients(wide))
    exact.accept(loss_and_gradients(other), loss_and_gradients(plain))
    change(other)
    wrong = exact.refuse(loss_and_gradients(other), loss_and_gradients(plain))
    assert len(wrong) > len(exact.values) / 2


def test_what_a_model_computes_in_float32_is_in_float64_too() -> None:
    norm = build("llama").model.norm.double()
    x = torch.randn(5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    formula = norm.weight * x / (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    assert (norm(x) - formula).abs().max() > 1e-9, "it computes in float32 by itself"
    with Float64():
        assert (norm(x) - formula).abs().max() < 1e-14


@pytest.mark.parametrize("inplace", [False, True])
def test_noise_is_that_of_rounding(inplace: bool) -> None:
    x = torch.full((100_000,), 3.0, dtype=torch.float64)
    with Float64(EPS / 2):
        found = x.clone().mul_(2) if inplace else x * 2
        view = found.view(10, -1).T
    moves = (found / 6 - 1) / (EPS / 2)
    assert moves.std() == pytest.approx((1 + inplace) ** 0.5 / 3**0.5, rel=0.02)  # a clone is moved too
    assert view.data_ptr() == found.data_ptr()
    with Float64(EPS / 2):
        assert torch.where(x > 3, 0, -torch.inf).add(1).isinf().all()
