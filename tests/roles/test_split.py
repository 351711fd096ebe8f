"""Fused matrices: whose rows are whose, split and made one again."""

import copy

import pytest
import torch
from fused import FUSED_BY_ID, Fused, fused_cases, tokens
from models import assert_same_state, fitting, snapshot
from rounding import assert_near, assert_stepped
from torch import nn
from transformers import GPT2Config, GPT2Model

from qvtune.adaptation import adapt, restore
from qvtune.groups import param_groups
from qvtune.roles.attention import AttentionMap
from qvtune.roles.find import find_attention
from qvtune.roles.fused import join, split
from qvtune.roles.layouts import Rows
from qvtune.roles.split import SplitProjection


def fused_parts(family: Fused, attention: AttentionMap, weight: torch.Tensor, layer: int = 0) -> dict:
    return {
        role: weight[torch.tensor(attention.layers[layer][role].rows.indices())]
        for role in "qkv"
        if attention.layers[layer][role].is_fused
    }


@fused_cases()
def test_rows_are_those_that_the_models_code_cuts(family: Fused) -> None:
    model = family.build()
    attention = find_attention(model)
    assert len(attention) == 2
    assert attention.verified
    assert [layer.kv_heads for layer in attention] == [family.kv_heads] * 2
    expected = dict(zip("qkv", family.parts(family.weight(model)), strict=True))
    for role, rows in fused_parts(family, attention, family.weight(model)).items():
        assert torch.equal(rows, expected[role])


@fused_cases()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_split_computes_the_same_and_comes_back_bit_for_bit(family: Fused, dtype: torch.dtype) -> None:
    model = family.build().to(dtype)
    before, names = snapshot(model), [name for name, _ in model.named_modules()]
    with torch.no_grad():
        expected = model(**tokens())[0]
        attention = find_attention(model)
        assert len(split(model, attention, attention.projections("qkv"))) == 2
        outputs = model(**tokens())[0]
    if dtype == torch.float32:
        assert_near(outputs, expected)
    else:
        assert (outputs - expected).abs().max() <= 2e-2 * expected.abs().max()
    assert len(join(model)) == 2
    assert_same_state(before, model)
    assert [name for name, _ in model.named_modules()] == names


def train(model: nn.Module, roles: str, method: str) -> nn.Module:
    torch.manual_seed(1)
    adapted = adapt(model, roles=roles, method=method, **fitting(method, rank=4), head=[]).train()
    groups = param_groups(adapted, lr=0.05, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups)
    for _ in range(3):
        adapted(**tokens())[0].pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return restore(adapted)


@fused_cases()
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("roles", ["qv", "k", "v", "qkv"])
def test_only_the_rows_of_the_chosen_roles_train(family: Fused, method: str, roles: str) -> None:
    model = family.build()
    attention = find_attention(model)
    start = [family.weight(model, layer).clone() for layer in range(2)]
    biases = [getattr(model.get_submodule(family.module.format(i)), "bias", None) for i in range(2)]
    biases = [None if bias is None else bias.detach().clone() for bias in biases]
    trained = train(model, roles, method)
    for layer in range(2):
        end = family.weight(trained, layer)
        for role, before in fused_parts(family, attention, start[layer], layer).items():
            after = fused_parts(family, attention, end, layer)[role]
            assert torch.equal(before, after) == (role not in roles), (layer, role)
        if biases[layer] is not None:
            after = trained.get_submodule(family.module.format(layer)).bias
            for role in "qkv":
                rows = torch.tensor(attention.layers[layer][role].rows.indices())
                moved = not torch.equal(after[rows], biases[layer][rows])
                assert moved == (method == "full" and role in roles)


@fused_cases()
def test_each_role_moves_at_its_own_rate(family: Fused) -> None:
    """One step of plain SGD is rate times gradient, and the gradient is that of the fused matrix as a whole."""
    model = family.build()
    attention = find_attention(model)
    whole = copy.deepcopy(model)
    whole(**tokens())[0].pow(2).sum().backward()
    adapted = adapt(model, roles="qv", method="full", head=[])
    groups = param_groups(adapted, lr=1e-3, lr_ratio=8)
    assert {group["name"].removesuffix("_no_decay"): group["lr"] for group in groups} == {"query": 1e-3, "value": 8e-3}
    adapted(**tokens())[0].pow(2).sum().backward()
    torch.optim.SGD(groups, lr=1.0).step()
    trained = restore(adapted)
    for layer in range(2):
        module = whole.get_submodule(family.module.format(layer))
        gradient = module.weight.grad.T if type(module).__name__ == "Conv1D" else module.weight.grad
        start, end = family.weight(whole, layer), family.weight(trained, layer)
        for role, rate in (("q", 1e-3), ("k", 0.0), ("v", 8e-3)):
            projection = attention.layers[layer][role]
            if projection.is_fused:
                rows = torch.tensor(projection.rows.indices())
                assert_stepped(end[rows], start[rows], -rate * gradient[rows])


def test_gradients_are_the_same_under_checkpointing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = FUSED_BY_ID["gpt-neox"].build().train()
        adapted = adapt(model, roles="qv", method="full", head=[])
        if checkpointing:
            adapted.gradient_checkpointing_enable({"use_reentrant": False})
        adapted(**tokens())[0].pow(2).sum().backward()
        gradients.append({n: p.grad for n, p in adapted.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_a_module_that_layers_share_stays_shared() -> None:
    model = FUSED_BY_ID["gpt-neox"].build()
    layers = model.gpt_neox.layers
    layers[1].attention.query_key_value = layers[0].attention.query_key_value
    split(model, attention := find_attention(model), attention.projections("v"))
    assert isinstance(layers[0].attention.query_key_value, SplitProjection)
    assert layers[1].attention.query_key_value is layers[0].attention.query_key_value
    join(model)
    assert isinstance(layers[1].attention.query_key_value, nn.Linear)
    assert layers[1].attention.query_key_value is layers[0].attention.query_key_value


def test_a_model_is_adapted_again_after_restore(tmp_path) -> None:
    family = FUSED_BY_ID["gpt2"]
    family.build().save_pretrained(tmp_path)
    model = type(family.build()).from_pretrained(tmp_path)
    heads = []
    for _ in range(2):
        adapted = adapt(model, roles="q", head=None)
        heads.append(sorted({n.split(".")[2] for n, p in adapted.named_parameters() if p.requires_grad}))
        model = restore(adapted)
    assert heads[0] == heads[1] == ["score", "transformer"]


def test_only_chosen_layers_are_split() -> None:
    model = adapt(FUSED_BY_ID["gpt2"].build(), roles="v", layers=[1], head=[])
    split_ones = [name for name, module in model.named_modules() if isinstance(module, SplitProjection)]
    assert [name.split(".h.")[1][0] for name in split_ones] == ["1"]


def test_a_refused_call_leaves_a_fused_model_as_it_was() -> None:
    model = FUSED_BY_ID["gpt2"].build()
    before = snapshot(model)
    with pytest.raises(ValueError, match="rank is 33"):
        adapt(model, roles="qv", rank=33)
    assert_same_state(before, model)


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [
        (Rows(0, 3), [0, 1, 2]),
        (Rows(2, 2, 6, 2), [2, 3, 8, 9]),
    ],
)
def test_rows(rows: Rows, numbers: list[int]) -> None:
    assert rows.indices() == numbers
    assert len(rows) == len(numbers)


def test_uneven_runs_keep_their_order() -> None:
    """Queries as one block before keys and values that take turns: no layout of the tables, and split all the same."""
    torch.manual_seed(0)
    fused = nn.Linear(6, 12)
    reference = copy.deepcopy(fused)
    rows = {"q": Rows(0, 4), "k": Rows(4, 2, 4, 2), "v": Rows(6, 2, 4, 2)}
    module = SplitProjection(fused, rows)
    inputs = torch.randn(3, 6)
    torch.testing.assert_close(module(inputs), reference(inputs))
    assert torch.equal(module.weight, reference.weight)
    assert torch.equal(module.join().bias, reference.bias)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_keys_and_values_in_halves_beside_a_query_of_its_own(method: str) -> None:
    """GPT-2's cross-attention: c_attn holds keys, then values, as columns, and q_attn the query."""
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, add_cross_attention=True)).eval()
    inputs = {**tokens(), "encoder_hidden_states": torch.randn(2, 6, 32)}
    attention = find_attention(model, inputs=inputs)
    assert attention.verified
    cross = [layer for layer in attention if layer.kind == "cross"]
    assert [layer.layout for layer in cross] == ["key_value_halves"] * 2
    assert [layer.layout for layer in attention if layer.kind == "self"] == ["blocks"] * 2
    assert [(p.role, p.module, p.rows) for p in cross[1].projections] == [
        ("q", "h.1.crossattention.q_attn", Rows(0, 32)),
        ("k", "h.1.crossattention.c_attn", Rows(0, 32)),
        ("v", "h.1.crossattention.c_attn", Rows(32, 32)),
        ("o", "h.1.crossattention.c_proj", Rows(0, 32)),
    ]
    start = snapshot(model)
    adapted = adapt(model, roles="qv", method=method, **fitting(method, rank=4), head=[], attention=attention).train()
    optimizer = torch.optim.SGD(param_groups(adapted, lr=0.05), lr=1.0)
    for _ in range(3):
        adapted(**inputs)[0].pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    end = restore(adapted).state_dict()
    assert list(end) == list(start)
    for layer in (0, 1):
        before, after = (state[f"h.{layer}.crossattention.c_attn.weight"] for state in (start, end))
        assert torch.equal(before[:, :32], after[:, :32])
        assert not torch.equal(before[:, 32:], after[:, 32:])
        name = f"h.{layer}.crossattention.q_attn.weight"
        assert not torch.equal(start[name], end[name])
