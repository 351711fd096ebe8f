"""A loop with few walks through the model."""

import copy

import torch
from torch import nn

from qvtune.train.fast.lean import few_walks


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
