"""The device of the other tests refuses what a GPU refuses, and computes what the CPU computes."""

import pytest
import torch
from torch import nn

DEVICE = torch.device("pretend", 0)


def test_it_is_the_accelerator_of_torch() -> None:
    assert torch.accelerator.is_available()
    assert torch.accelerator.current_accelerator().type == "pretend"


def test_mixing_it_with_the_cpu_is_refused() -> None:
    ours, cpu = torch.ones(3, 4, device=DEVICE), torch.ones(3, 4)
    calls = (
        lambda: ours + cpu,
        lambda: nn.functional.linear(cpu, ours),
        lambda: torch.cat([ours, cpu]),
        lambda: ours.index_copy(0, torch.tensor([0, 1, 2]), ours),
        lambda: torch.equal(ours, cpu),
        lambda: nn.functional.cross_entropy(ours, torch.tensor([0, 1, 2])),
    )
    for call in calls:
        with pytest.raises(RuntimeError, match=r"(on|in) the same device"):
            call()
    with pytest.raises(TypeError, match=r"\.cpu\(\)"):
        ours.numpy()


def test_it_computes_what_the_cpu_computes() -> None:
    layer, x = nn.Linear(4, 5), torch.randn(3, 4)
    layer(x).square().sum().backward()
    expected = layer.weight.grad.clone()
    layer.zero_grad()
    layer.to(DEVICE)
    layer(x.to(DEVICE)).square().sum().backward()
    assert layer.weight.grad.device == DEVICE
    assert torch.equal(layer.weight.grad.cpu(), expected)


def test_autocast_computes_in_fewer_bits() -> None:
    layer, x = nn.Linear(4, 5).to(DEVICE), torch.randn(3, 4, device=DEVICE)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_it_draws_from_a_generator_of_its_own() -> None:
    torch.manual_seed(3)
    first = torch.rand(4, device=DEVICE).cpu()
    torch.rand(4)
    second = torch.rand(4, device=DEVICE).cpu()
    torch.manual_seed(3)
    assert torch.equal(torch.rand(8, device=DEVICE).cpu(), torch.cat([first, second]))
