"""The end of a residual block beside its formula in float64, and the blocks that have that form."""

from collections.abc import Callable

import pytest
import torch
from rounding import Exact
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertConfig, BertOutput, BertSelfOutput

from qvtune.fast.bits import draw, keep_mask, realized
from qvtune.fast.cpu.residual import ResidualNorm, shorten_residual_blocks

CONFIG = BertConfig(hidden_size=50, intermediate_size=70, hidden_dropout_prob=0.2)


def make_block() -> nn.Module:
    torch.manual_seed(0)
    block = BertOutput(CONFIG).requires_grad_(False)
    for parameter in block.LayerNorm.parameters():
        parameter.data.normal_(1.0)
    return block


def results(block: nn.Module, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(1)
    x, residual = (torch.randn(3, 5, n).to(dtype).requires_grad_() for n in (70, 50))
    out = block(x, residual)
    out.backward(torch.randn_like(out))
    return [out.detach(), x.grad, residual.grad]


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_output_and_gradients_are_the_formula_s(mode: bool) -> None:
    block = make_block().train(mode)
    assert shorten_residual_blocks(block) == 1
    torch.manual_seed(1)
    given = [torch.randn(3, 5, n) for n in (70, 50)]
    gradient = torch.randn(3, 5, 50)

    def formula(x: Tensor, residual: Tensor) -> Tensor:
        keep = keep_mask(torch.Size((3, 5, 50)), draw(0.2)) != 0 if mode else 1
        scale = 1 / (1 - realized(0.2)) if mode else 1
        weight, bias, gain, shift = (p.to(x) for part in (block.dense, block.LayerNorm) for p in part.parameters())
        return nn.functional.layer_norm(
            (x @ weight.T + bias) * keep * scale + residual, (50,), gain, shift, block.LayerNorm.eps
        )

    def results(compute: Callable[..., Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        x, residual = (tensor.to(dtype, copy=True).requires_grad_() for tensor in given)
        torch.manual_seed(2)
        out = compute(x, residual)
        out.backward(gradient.to(dtype))
        return {"out": out.detach(), "x": x.grad, "residual": residual.grad}

    Exact.of(lambda: results(formula, torch.float64)).accept(results(block), results(formula))


@pytest.mark.usefixtures("with_kernels")
def test_a_gradient_that_nothing_needs_is_not_computed() -> None:
    block = make_block().eval()
    shorten_residual_blocks(block)
    x, residual = torch.randn(2, 70, requires_grad=True), torch.randn(2, 50)
    block(x, residual).sum().backward()
    assert x.grad is not None
    assert residual.grad is None


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_what_cannot_be_normed_is_not_a_number(value: float) -> None:
    block = make_block().eval()
    shorten_residual_blocks(block)
    residual = torch.zeros(2, 50)
    residual[0, :2] = torch.tensor([value, -value])
    assert block(torch.zeros(2, 70), residual).isnan().all(dim=1).tolist() == [True, False]


def test_without_kernels_a_block_computes_as_before(without_kernels: None) -> None:
    plain = results(make_block().eval(), torch.float32)
    block = make_block().eval()
    shorten_residual_blocks(block)
    assert all(torch.equal(a, b) for a, b in zip(results(block, torch.float32), plain, strict=True))


def test_norms_that_train_are_left_to_torch() -> None:
    block = make_block().eval()
    shorten_residual_blocks(block)
    block.LayerNorm.weight.requires_grad_(True)
    results(block, torch.float32)
    assert block.LayerNorm.weight.grad is not None


class Scaled(BertSelfOutput):
    """Has the parts and the arguments, and does something else."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return super().forward(0.5 * hidden_states, input_tensor)


class Renamed(BertSelfOutput):
    """Takes other arguments."""

    def forward(self, hidden_states: Tensor, other: Tensor) -> Tensor:
        return super().forward(hidden_states, other)


class Further(BertSelfOutput):
    """Has a part more."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.more = nn.Linear(2, 2)


@pytest.mark.parametrize("kind", [Scaled, Renamed, Further])
def test_other_blocks_are_not_taken_for_one(kind: type[nn.Module]) -> None:
    block = kind(CONFIG)
    assert shorten_residual_blocks(block) == 0
    assert not isinstance(block, ResidualNorm)
