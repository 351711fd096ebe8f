"""What the fast path returns can be changed in place, as what torch's own layers return can."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

import qvtune.fast
from qvtune.fast.bits import draw
from qvtune.fast.cpu.attention import AttendedByTorch
from qvtune.fast.cpu.native.library import has_kernels, has_tiles
from qvtune.fast.dropout import Dropped
from qvtune.fast.frozen import Packed, Product, Reordered, Tiles
from qvtune.fast.lora import Adapted

ROWS, WIDTH = (2, 5), 32


def fill(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape).sin()


def lora(x: Tensor, rate: float, rank: int = 4) -> Tensor:
    return Adapted.apply(x, fill(WIDTH, WIDTH), None, fill(rank, WIDTH), fill(WIDTH, rank), 2.0, rate, None)


def product(kind: type) -> Callable[[Tensor], Tensor]:
    weight = fill(64, WIDTH).bfloat16()
    packed = Packed(kind.of(weight), kind.of(weight.T.contiguous()))
    return lambda x: Product.apply(x.bfloat16(), None, packed)


def kernel(name: str, *arguments: Any) -> Callable[[Tensor], Tensor]:
    """Return a function of the kernels' modules, whose `Function` takes `arguments` after its input."""
    module, _, called = name.rpartition(".")
    return lambda x: getattr(importlib.import_module(f"qvtune.fast.cpu.{module}"), called).apply(x, *arguments)


def attended(x: Tensor, rate: float) -> Tensor:
    heads = x.view(2, 5, 4, 8).transpose(1, 2)
    return kernel("attention.Attended", heads, heads, None, False, 0.35, draw(rate))(heads)


def attended_by_torch(x: Tensor, rate: float) -> Tensor:
    heads = x.view(2, 5, 4, 8).transpose(1, 2)
    return AttendedByTorch.apply(heads, heads, heads, None, 0.35, draw(rate))


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "Adapted": lambda x: lora(x, 0.0),
    "Adapted, dropout": lambda x: lora(x, 0.1),
    "Adapted, a rank without kernels": lambda x: lora(x, 0.1, rank=40),
    "Product, reordered": product(Reordered),
    "Product, tiles": product(Tiles),
    "Dropped": lambda x: Dropped.apply(x, draw(0.1)),
    "Attended": lambda x: attended(x, 0.0),
    "Attended, dropout": lambda x: attended(x, 0.1),
    "AttendedByTorch": lambda x: attended_by_torch(x, 0.0),
    "AttendedByTorch, dropout": lambda x: attended_by_torch(x, 0.1),
    "Activated": kernel("activation.Activated", "silu"),
    "Normed": kernel("residual.Normed", fill(*ROWS, WIDTH), fill(WIDTH), fill(WIDTH), 1e-5, draw(0.1)),
}


@pytest.fixture(params=[True, False], ids=["kernels", "no kernels"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        for name in ("bits", "dropout", "lora"):
            module = importlib.import_module(f"qvtune.fast.{name}")
            monkeypatch.setattr(module, "has_kernels", lambda *tensors: False)
    return request.param


@pytest.mark.parametrize("name", CASES)
def test_an_output_can_be_changed_in_place(name: str, kernels: bool) -> None:
    kind = name.partition(",")[0]
    if kind in ("Attended", "Activated", "Normed") and not (kernels and has_kernels(fill(1))):
        pytest.skip("is a kernel")
    if name == "Product, tiles" and not has_tiles():
        pytest.skip("this processor has no AMX, or its system does not allow it")
    found = []
    for in_place in (False, True):
        torch.manual_seed(0)
        x = fill(*ROWS, WIDTH).requires_grad_()
        out = CASES[name](x)
        assert not out._is_view()
        out = out.mul_(3) if in_place else out * 3
        out.sum().backward()
        found.append((out.detach().clone(), x.grad))
    assert found[0][0].equal(found[1][0])
    assert found[0][1].equal(found[1][1])


def test_every_function_of_the_fast_path_is_tried() -> None:
    for module in pkgutil.walk_packages(qvtune.fast.__path__, "qvtune.fast."):
        importlib.import_module(module.name)
    own = {kind.__name__ for kind in Function.__subclasses__() if kind.__module__.startswith("qvtune.fast")}
    assert own == {name.partition(",")[0] for name in CASES}
