"""A step against float64: the mean over all examples however they are spread, hooks once, schedules and clipping."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from qvtune.errors import RunError
from qvtune.methods.method import Method
from qvtune.training.objective import Batch
from qvtune.training.processes import accelerator_for
from qvtune.training.step import Share, Step

CPU = torch.device("cpu")


class Squares:
    """The squared error of a linear model, weighted by example."""

    def total(self, model: nn.Module, batch: Batch) -> Tensor:
        return (batch["weight"] * (model(batch["x"]).squeeze(-1) - batch["y"]) ** 2).sum()

    def count(self, batch: Batch) -> Tensor:
        return batch["weight"].sum()


class Watched(Method):
    """Says when its hooks are called, and pulls the weights towards zero."""

    def penalty(self, model: nn.Module) -> Tensor:
        return 0.25 * next(model.parameters()).square().sum()

    def after_step(self, model: nn.Module, step: int) -> None:
        self.calls.append((step, next(model.parameters()).grad is not None))

    calls: list[tuple[int, bool]] = []


def make_parts(sizes: list[int]) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "x": torch.randn(size, 3, generator=generator),
            "y": torch.randn(size, generator=generator),
            "weight": torch.rand(size, generator=generator) + 0.5,
        }
        for size in sizes
    ]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1, bias=False)


@contextmanager
def make_step(model: nn.Module, method: Any = None, **options: Any) -> Iterator[Step]:
    with accelerator_for(CPU, "fp32") as accelerator:
        optimizer = torch.optim.SGD([{"params": list(model.parameters()), "lr": 0.5, "name": "all"}])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        method = method or Method("plain", "nothing", lr=1.0, lr_ratio=None)
        options = {"max_grad_norm": 0.0} | options
        yield Step(model, Squares(), optimizer, schedule, method=method, accelerator=accelerator, **options)


@pytest.mark.parametrize("sizes", [[7], [3, 4], [1, 5, 1], [2, 2, 2, 1]], ids=str)
def test_the_gradient_is_that_of_the_mean_however_the_examples_are_spread(sizes: list[int]) -> None:
    parts, model = make_parts(sizes), make_model()
    exact = make_model().double()
    whole = {name: torch.cat([part[name] for part in parts]).double() for name in parts[0]}
    wanted = Squares().total(exact, whole) / Squares().count(whole)
    wanted.backward()
    before = model.weight.detach().clone()
    with make_step(model) as step:
        result = step([Share(part) for part in parts], 1)
    gradient = (before - model.weight.detach()) / 0.5
    assert torch.allclose(gradient.double(), exact.weight.grad, atol=1e-6)
    assert float(result.loss) == pytest.approx(float(wanted), rel=1e-6)
    assert float(result.gradient_norm) == pytest.approx(float(exact.weight.grad.norm()), rel=1e-6)
    assert (result.rates, result.has_stepped) == ((0.5,), True)
    assert model.weight.grad is None


def test_a_share_that_does_not_count_changes_nothing() -> None:
    parts = make_parts([4, 2])
    models = make_model(), make_model()
    for model, shares in zip(
        models, ([Share(parts[0])], [Share(parts[0]), Share(parts[1], counts=False)]), strict=True
    ):
        with make_step(model) as step:
            step(shares, 1)
    assert torch.allclose(models[0].weight, models[1].weight, atol=1e-7)


@pytest.mark.parametrize("sizes", [[6], [2, 4]], ids=str)
def test_the_penalty_is_differentiated_once_and_not_logged(sizes: list[int]) -> None:
    parts, plain, pulled = make_parts(sizes), make_model(), make_model()
    method = Watched("watched", "nothing", lr=1.0, lr_ratio=None)
    method.calls.clear()
    before = pulled.weight.detach().clone()
    losses = []
    for model, own in ((plain, None), (pulled, method)):
        with make_step(model, own) as step:
            losses.append(float(step([Share(part) for part in parts], 5).loss))
    # The gradient of 0.25 ‖w‖² is w / 2, at a rate of 0.5.
    assert torch.allclose(plain.weight - pulled.weight, 0.5 * before / 2, atol=1e-6)
    assert losses[0] == losses[1]
    assert method.calls == [(5, True)]


def test_the_norm_is_clipped_and_the_schedule_moves_on() -> None:
    model = make_model()
    with make_step(model, max_grad_norm=1e-2) as step:
        before = model.weight.detach().clone()
        first = step([Share(part) for part in make_parts([5])], 1)
        assert float((model.weight - before).norm()) == pytest.approx(0.5 * 1e-2, rel=1e-3)
        assert float(first.gradient_norm) > 1e-2
        second = step([Share(part) for part in make_parts([5])], 2)
    assert (first.rates, second.rates) == ((0.5,), (0.25,))


def test_a_second_thread_is_refused() -> None:
    said = []

    def train() -> None:
        try:
            with accelerator_for(CPU, "fp32"):
                said.append("trains")
        except RunError as error:
            said.append(str(error))

    with accelerator_for(CPU, "fp32"):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    train()
    assert "another thread of this process trains" in said[0]
    assert said[1] == "trains"


def test_accelerate_is_left_as_it_was_found() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    own = Accelerator(cpu=True, mixed_precision="bf16")
    with accelerator_for(CPU, "fp32") as inner:
        assert inner.mixed_precision == "no"
    assert own.mixed_precision == AcceleratorState().mixed_precision == "bf16"
    with pytest.raises(ZeroDivisionError), accelerator_for(CPU, "fp32"):
        1 / 0  # noqa: B018
    assert AcceleratorState().mixed_precision == "bf16"
    AcceleratorState._reset_state(reset_partial_state=True)
