"""LoRA as one function beside PEFT's own layer and beside its formula."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from qvtune.train.fast.bits import draw, keep_mask, realized
from qvtune.train.fast.lora import SMALL, FastLora


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


def results(layer: Linear, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    out = layer(x)
    out.backward(torch.ones_like(out).cumsum(-1))
    return [out.detach(), x.grad, *(p.grad for p in layer.parameters() if p.requires_grad)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 16), (2, 7, 16)])
@pytest.mark.parametrize("rank", [1, 4, 8, 11, SMALL + 1])
def test_output_and_gradients_are_peft_s(rank: int, bias: bool, shape: tuple[int, ...], either: str) -> None:
    x = torch.randn(shape)
    ours, theirs = (results(change(make_layer(bias=bias, rank=rank)), x) for change in (faster, lambda layer: layer))
    for mine, expected in zip(ours, theirs, strict=True):
        assert (mine - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("rank", [4, SMALL + 1])
def test_under_dropout_they_are_the_formula_s(rank: int, either: str) -> None:
    layer, x = faster(make_layer(dropout=0.3, rank=rank)), torch.randn(6, 16)
    torch.manual_seed(1)
    ours = results(layer, x)
    torch.manual_seed(1)
    keep = keep_mask(torch.Size((6, 16)), draw(0.3)) != 0
    a, b = (p["default"].weight.detach().double().requires_grad_() for p in (layer.lora_A, layer.lora_B))
    exact = x.double().requires_grad_()
    base = layer.base_layer
    dropped = exact * keep / (1 - realized(0.3))
    out = exact @ base.weight.double().T + base.bias.double() + 2.0 * dropped @ a.T @ b.T
    out.backward(torch.ones_like(out).cumsum(-1))
    for mine, expected in zip(ours, (out.detach(), exact.grad, a.grad, b.grad), strict=True):
        assert torch.allclose(mine.double(), expected, rtol=1e-4, atol=1e-4)


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
    for ours, theirs in zip(results(faster(make_layer(**options)), x), results(make_layer(**options), x), strict=True):
        assert torch.equal(ours, theirs)


def test_merged_and_disabled_layers_stay_peft_s() -> None:
    x = torch.randn(3, 16)
    layer = faster(make_layer())
    adapted = layer(x)
    layer.merge()
    assert torch.allclose(layer(x), adapted, atol=1e-5)
    layer.unmerge()
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_part_of_a_sequence_is_no_contiguous_input(either: str) -> None:
    whole = torch.randn(3, 5, 16)
    ours, theirs = (results(change(make_layer()), whole[:, :1]) for change in (faster, lambda layer: layer))
    for mine, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, expected, rtol=1e-5, atol=1e-5)


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
    assert all(torch.equal(a, b) for a, b in zip(both, again, strict=True))
    assert all((a - b).norm() <= 1e-6 * a.norm() for a, b in zip(alone, both, strict=True))
