"""What trains as tensors: into a model adapted in the same way, whole or not at all; and what each hook does."""

from pathlib import Path

import pytest
import torch
from methods_table import NAMES, adapted, inputs, logits, stirred
from models import assert_same_state, snapshot

from qvtune.errors import ModelError
from qvtune.groups import param_groups
from qvtune.methods.adapted import method_of
from qvtune.methods.method import Method
from qvtune.methods.state import load_trained, trained_state
from qvtune.methods.table import METHODS

every_method = pytest.mark.parametrize("method", NAMES)
# Methods with a state of their own, which PEFT or transformers would not keep.
WITH_STATE = {"adalora", "sift"}


def trained(method: str, steps: int = 12) -> torch.nn.Module:
    """A model that took some steps by a method's own hooks, for adalora past the first pruning."""
    model = adapted(method).eval()
    hooks = METHODS[method]
    optimizer = hooks.make_optimizer(param_groups(model, lr=1e-2), betas=(0.9, 0.999), eps=1e-8)
    hooks.begin(model, 20)
    for step in range(1, steps + 1):
        model(**inputs("bert")).loss.backward()
        optimizer.step()
        hooks.after_step(model, step)
        optimizer.zero_grad()
    return model


@every_method
def test_a_state_makes_another_model_the_same(method: str) -> None:
    model, other = trained(method), adapted(method, seed=9).eval()
    state = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    own = {name for name in state if not any(known.endswith(name) for known in names)}
    assert bool(own) == (method in WITH_STATE)
    assert own == METHODS[method].state(model).keys()
    if "vera" not in method:  # whose shared factors are not what trains
        load_trained(other, state, Path("here"))
        assert torch.equal(logits(other), logits(model))
    back = trained_state(model)
    load_trained(model, state, Path("here"))
    assert all(torch.equal(tensor, back[name]) for name, tensor in state.items())


@every_method
@pytest.mark.parametrize("kind", ["one less", "one more", "another shape"])
def test_a_state_of_something_else_is_refused_and_changes_nothing(method: str, kind: str) -> None:
    model, other = stirred(method), adapted(method)
    state = dict(trained_state(model))
    name = min(n for n in state if "classifier" in n)
    if kind == "one less":
        del state[name]
    elif kind == "one more":
        name = "another"
        state[name] = torch.zeros(1)
    else:
        state[name] = state[name][:1]
    before = snapshot(other)
    with pytest.raises(ModelError, match=f"^here: what was trained is not what trains here: '{name}' is of another"):
        load_trained(other, state, Path("here"))
    assert_same_state(before, other)


def test_places_that_are_missing_are_refused() -> None:
    model = adapted("sift")
    state = dict(trained_state(model))
    name = min(n for n in state if n.endswith("indices"))
    del state[name]
    with pytest.raises(ModelError, match=f"'{name}' is of another shape or missing"):
        load_trained(model, state, Path("here"))


@every_method
def test_an_optimizer_is_adamw_unless_the_method_has_its_own(method: str) -> None:
    model = adapted(method)
    hooks = method_of(model)
    assert hooks is METHODS[method]
    optimizer = hooks.make_optimizer(param_groups(model, lr=1e-3), betas=(0.8, 0.9), eps=1e-6)
    assert (type(optimizer) is torch.optim.AdamW) != hooks.has_own_optimizer
    assert hooks.has_own_optimizer == (method == "galore")
    assert all((group["betas"], group["eps"]) == ((0.8, 0.9), 1e-6) for group in optimizer.param_groups)
    assert (hooks.penalty(model) is not None) == (method == "adalora")


def test_a_method_that_says_nothing_has_hooks_that_do_nothing() -> None:
    model, plain = adapted("head"), Method("plain", "nothing", lr=1.0, lr_ratio=None)
    before = snapshot(model)
    plain.begin(model, 3)
    plain.after_step(model, 1)
    plain.load_state(model, {})
    assert (plain.penalty(model), plain.state(model), plain.sizes(model)) == (None, {}, {})
    assert_same_state(before, model)
    with pytest.raises(ModelError, match="'x' is of another shape or missing"):
        plain.load_state(model, {"x": torch.zeros(1)})
