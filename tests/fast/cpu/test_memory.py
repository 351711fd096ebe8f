"""A loop with few walks through the model, in memory that is kept."""

import copy
import ctypes
import subprocess
import sys

import pytest
import torch
from torch import nn

from qvtune.fast.cpu.memory import few_walks


def make_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    return model


def test_modes_reach_every_module() -> None:
    model = make_model().eval()
    with few_walks(model):
        for mode in (True, True, False, True):
            assert model.train(mode) is model
            assert {module.training for module in model.modules()} == {mode}
        model.eval()
        assert {module.training for module in model.modules()} == {False}


def test_gradients_are_taken_off() -> None:
    model = make_model()
    with few_walks(model):
        model(torch.ones(2, 3)).sum().backward()
        assert model[2].weight.grad is not None
        model.zero_grad(set_to_none=False)
        assert not model[2].weight.grad.any()
        model.zero_grad()
        assert model[2].weight.grad is None


def test_afterwards_the_model_is_as_it_was() -> None:
    model = make_model()
    with few_walks(model):
        pass
    twin = copy.deepcopy(model)
    twin.eval()
    assert not twin[1].training
    assert model[1].training


# In a process of its own, whose heap nothing else has used. Prints page faults before, within and after.
STEPS = """
import resource, torch
from qvtune.fast.cpu.memory import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(48 << 20, dtype=torch.uint8) for _ in range(3)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
with kept_memory():
    with kept_memory():
        pass
    within = [faults() for _ in range(5)][-1]
print(before, within, faults())
"""

HAS_GLIBC = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "malloc_trim")


@pytest.mark.skipif(not HAS_GLIBC, reason="glibc alone does that")
def test_memory_is_kept_until_the_last_one_ends_and_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    before, within, after = map(int, done.stdout.split())
    assert before > 3 * (48 << 20) // 65536  # pages of the largest size that is common
    assert within < before / 2
    assert after > before / 2
