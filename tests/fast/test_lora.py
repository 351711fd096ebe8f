"""LoRA as one function beside PEFT's own layer and beside its formula."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from rounding import Exact
from torch import nn

from qvtune.fast.bits import draw, keep_mask, realized
from qvtune.fast.lora import SMALL, FastLora


def make_layer(dropout: float = 0.0, *, bias: bool = True, rank: int = 4, **options: object) -> Linear:
    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=["0"], **options)
    model = get_peft_model(nn.Sequential(nn.Linear(16, 24, bias=bias)), config)
    layer = model.base_model.model[0]
    layer.lora_B["default"].weight.data.normal_()
    return layer.train()


def faster(layer: Linear) -> Linear:
    layer.__class__ = FastLora
    return layer


def results(layer: Linear, x: torch.Tensor) -> dict[str, torch.Tensor]:
    layer.zero_grad()
    x = x.clone().requires_grad_()
    out = layer(x)
    out.backward(torch.ones_like(out).cumsum(-1))
    trained = {name: p.grad for name, p in layer.named_parameters() if p.requires_grad}
    return {"out": out.detach(), "x": x.grad} | trained


def accept(ours: dict[str, torch.Tensor], layer: Linear, x: torch.Tensor) -> None:
    plain = results(layer, x)
    exact = layer.double()
    Exact.of(lambda: results(exact, x.double())).accept(ours, plain)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 16), (2, 7, 16)])
@pytest.mark.parametrize("rank", [1, 4, 8, 11, SMALL + 1])
def test_output_and_gradients_are_peft_s(rank: int, bias: bool, shape: tuple[int, ...], either: str) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    accept(results(faster(make_layer(bias=bias, rank=rank)), x), make_layer(bias=bias, rank=rank), x)


@pytest.mark.parametrize("rank", [4, SMALL + 1])
def test_under_dropout_they_are_the_formula_s(rank: int, either: str) -> None:
    layer, x = make_layer(dropout=0.3, rank=rank), torch.randn(6, 16)
    torch.manual_seed(1)
    keep = keep_mask(torch.Size((6, 16)), draw(0.3)) != 0

    def formula(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        factors = (p["default"].weight for p in (layer.lora_A, layer.lora_B))
        weight, bias, a, b, given = (
            tensor.detach().to(dtype).requires_grad_() for tensor in (*layer.base_layer.parameters(), *factors, x)
        )
        out = given @ weight.T + bias + 2.0 * (given * keep / (1 - realized(0.3))) @ a.T @ b.T
        out.backward(torch.ones_like(out).cumsum(-1))
        names = ("lora_A.default.weight", "lora_B.default.weight")
        return {"out": out.detach(), "x": given.grad} | dict(zip(names, (a.grad, b.grad), strict=True))

    torch.manual_seed(1)
    Exact.of(lambda: formula(torch.float64)).accept(results(faster(layer), x), formula(torch.float32))


def test_parameters_train_in_float32_under_autocast(either: str) -> None:
    layer = faster(make_layer(dropout=0.1))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(3, 16))
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert layer.lora_A["default"].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}], ids=["dora", "bias"])
def test_other_kinds_of_lora_stay_peft_s(options: dict) -> None:
    x = torch.randn(3, 16)
    ours, theirs = results(faster(make_layer(**options)), x), results(make_layer(**options), x)
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_merged_and_disabled_layers_stay_peft_s() -> None:
    x = torch.randn(3, 16)
    layer = faster(make_layer())
    adapted = layer(x)
    layer.merge()
    exact, wide = make_layer().double(), x.double()
    Exact.of(lambda: {"out": exact(wide)}).accept({"out": layer(x)}, {"out": adapted})
    layer.unmerge()
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_part_of_a_sequence_is_no_contiguous_input(either: str) -> None:
    whole = torch.randn(3, 5, 16)
    accept(results(faster(make_layer()), whole[:, :1]), make_layer(), whole[:, :1])


@pytest.mark.usefixtures("with_kernels")
def test_threads_change_gradients_by_rounding_alone() -> None:
    x = torch.randn(200, 16)
    alone = results(faster(make_layer()), x)
    torch.set_num_threads(2)
    try:
        both = results(faster(make_layer()), x)
        again = results(faster(make_layer()), x)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(both[name], again[name]) for name in both)
    exact = make_layer().double()
    Exact.of(lambda: results(exact, x.double())).accept(both, alone)
