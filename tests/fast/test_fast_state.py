"""What the fast path holds of a model: in one place, gone when it is undone, and a copy's own."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import qvtune
from qvtune.fast.cpu.native.library import load_kernels
from qvtune.fast.frozen import FastFrozenLinear, has_bf16_products, packed_weights
from qvtune.fast.state import fast_state, own_state


def make_model() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return qvtune.adapt(BertForSequenceClassification(BertConfig(**sizes, vocab_size=100)), roles="qv")


def train_a_step(model: nn.Module) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=torch.arange(3, 15).view(2, 6), labels=torch.tensor([0, 1])).loss.backward()


def attributes(model: nn.Module) -> dict[str, set[str]]:
    return {name: set(vars(module)) for name, module in model.named_modules()}


def test_one_attribute_is_added_and_taken_off() -> None:
    model = make_model()
    before = attributes(model)
    globals_before = {name for name in vars(nn.Module) if "qvtune" in name}
    qvtune.make_fast(model, precision="bf16")
    train_a_step(model)
    added = {name: names - before[name] for name, names in attributes(model).items()}
    assert set().union(*added.values()) == {"qvtune_fast", "qvtune_undo"}
    inner = model.get_base_model()
    assert fast_state(inner).attention == "sdpa"
    key = inner.bert.encoder.layer[-1].attention.self.key
    assert set(fast_state(key).originals) == {"weight", "bias"}
    assert fast_state(key).shared is fast_state(inner).shared is not None
    assert fast_state(inner.classifier) is None
    qvtune.undo_fast(model)
    assert attributes(model) == before
    assert not any(module._state_dict_hooks for module in model.modules())
    assert {name for name in vars(nn.Module) if "qvtune" in name} == globals_before


def test_a_copy_has_a_state_of_its_own() -> None:
    model = qvtune.make_fast(make_model(), precision="bf16")
    train_a_step(model)
    twin = copy.deepcopy(model)
    for (name, module), (_, other) in zip(model.named_modules(), twin.named_modules(), strict=True):
        ours, theirs = fast_state(module), fast_state(other)
        assert (ours is None) == (theirs is None), name
        if ours is None:
            continue
        assert theirs is not ours
        assert theirs.packed is None
        assert theirs.originals.keys() == ours.originals.keys()
        assert all(torch.equal(theirs.originals[key], original) for key, original in ours.originals.items())
        assert all(theirs.originals[key] is not original for key, original in ours.originals.items())
    shared = {id(state.shared) for module in twin.modules() if (state := fast_state(module)) and state.shared}
    assert len(shared) == 1
    assert shared != {id(fast_state(model.get_base_model()).shared)}
    qvtune.undo_fast(model)
    state = twin.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.skipif(not has_bf16_products(), reason="this processor has no bfloat16 products")
def test_packed_weights_go_with_the_layer() -> None:
    layer = nn.Linear(32, 64).bfloat16().requires_grad_(False)
    layer.__class__ = FastFrozenLinear
    packed = packed_weights(layer)
    assert packed_weights(layer) is packed
    again = copy.deepcopy(layer)
    assert fast_state(again).packed is None
    assert torch.equal(again.weight, layer.weight)
    watched = weakref.ref(own_state(layer).packed[0])
    del layer, packed
    gc.collect()
    assert watched() is None


def test_a_model_that_is_dropped_is_freed_at_once() -> None:
    load_kernels()
    model = qvtune.make_fast(make_model(), precision="bf16")
    train_a_step(model)
    watched = weakref.ref(model.get_base_model())
    gc.collect()
    gc.disable()
    try:
        del model
        assert watched() is None
    finally:
        gc.enable()
