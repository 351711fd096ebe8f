"""torch's own attention module, taken apart: the same numbers, its weights back bit for bit, adapters for PEFT."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from methods_table import check_saved_and_undone
from models import assert_same_state, fitting, snapshot
from rounding import assert_near
from torch import nn

from qvtune.adaptation import adapt, restore
from qvtune.adapters import load_adapter, save_adapter
from qvtune.errors import AdaptError
from qvtune.groups import param_groups
from qvtune.roles.find import find_attention
from qvtune.roles.multihead import SplitMultihead

TOY = """
import torch
from torch import nn
from transformers import BertConfig, PreTrainedModel

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Linear(32, 32)

    def forward(self, hidden):
        hidden = hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]
        return hidden + torch.tanh(self.mlp(hidden))

class Toy(PreTrainedModel):
    config_class = BertConfig

    def __init__(self, config):
        super().__init__(config)
        torch.manual_seed(0)
        self.embed = nn.Embedding(100, 32)
        self.blocks = nn.ModuleList([Block(), Block()])
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, input_ids, **kwargs):
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
        return (hidden,)
"""
exec(TOY)

IDS = torch.tensor([[5, 9, 3, 7, 8, 2]])


def build() -> nn.Module:
    return Toy(BertConfig(vocab_size=100, hidden_size=32, num_attention_heads=4)).eval()  # noqa: F821  # of TOY


def arguments(case: str) -> dict:
    torch.manual_seed(1)
    causal = torch.triu(torch.ones(5, 7, dtype=torch.bool), 3)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 4:] = True
    return {
        "plain": {},
        "weights of each head": {"average_attn_weights": False},
        "no weights": {"need_weights": False},
        "mask": {"attn_mask": causal},
        "added mask": {"attn_mask": torch.randn(5, 7)},
        "mask of each head": {"attn_mask": torch.randn(3 * 4, 5, 7)},
        "padding": {"key_padding_mask": padding, "need_weights": False},
        "padding and mask": {"key_padding_mask": padding, "attn_mask": causal},
    }[case]


CASES = ["plain", "weights of each head", "no weights", "mask", "added mask", "mask of each head", "padding",
         "padding and mask"]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_torch_computes(case: str, batch_first: bool, training: bool) -> None:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(32, 4, batch_first=batch_first).train(training)
    nn.init.normal_(whole.in_proj_bias)
    query, key, value = torch.randn(3, 5, 32), torch.randn(3, 7, 32), torch.randn(3, 7, 32)
    if not batch_first:
        query, key, value = (part.transpose(0, 1) for part in (query, key, value))
    wanted = whole(query, key, value, **arguments(case))
    found = SplitMultihead(whole, keep=True)(query, key, value, **arguments(case))
    assert_near(found[0], wanted[0])
    assert (found[1] is None) == (wanted[1] is None)
    if wanted[1] is not None:
        assert_near(found[1], wanted[1])


def test_one_sequence_without_a_batch() -> None:
    whole = nn.MultiheadAttention(32, 4)
    sequence = torch.randn(5, 32)
    wanted, weights = whole(sequence, sequence, sequence)
    found = SplitMultihead(whole, keep=True)(sequence, sequence, sequence)
    assert_near(found[0], wanted)
    assert_near(found[1], weights)


def test_dropout_is_seeded_and_off_in_evaluation() -> None:
    module = SplitMultihead(nn.MultiheadAttention(32, 4, dropout=0.5, batch_first=True))
    sequence = torch.randn(2, 5, 32)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(module.train()(sequence, sequence, sequence, need_weights=False)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    module.eval()
    assert torch.equal(*(module(sequence, sequence, sequence)[0] for _ in range(2)))


def test_it_is_found_measured_and_left_as_it_was() -> None:
    model = build()
    before, kinds = snapshot(model), [type(module) for module in model.modules()]
    parameters = [id(p) for p in model.parameters()]
    attention = find_attention(model)
    assert attention.verified
    assert [(layer.layout, layer.heads, layer.head_dim, layer.kind) for layer in attention] == [
        ("multihead", 4, 8, "self")
    ] * 2
    assert [p.module for p in attention.layers[1].projections] == ["blocks.1.attention"] * 3 + [
        "blocks.1.attention.out_proj"
    ]
    assert_same_state(before, model)
    assert [type(module) for module in model.modules()] == kinds
    assert [id(p) for p in model.parameters()] == parameters


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("roles", ["qv", "k", "o", "qkvo"])
def test_only_the_chosen_roles_train(method: str, roles: str) -> None:
    model = build()
    start = snapshot(model)
    adapted = adapt(model, roles=roles, method=method, **fitting(method, rank=4), head=[]).train()
    optimizer = torch.optim.SGD(param_groups(adapted, lr=0.1), lr=1.0)
    for _ in range(3):
        adapted(IDS)[0].pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    end = restore(adapted).state_dict()
    assert list(end) == list(start)
    for layer in (0, 1):
        name = f"blocks.{layer}.attention"
        moved = {
            role: not torch.equal(end[f"{name}.in_proj_weight"][rows], start[f"{name}.in_proj_weight"][rows])
            for role, rows in (("q", slice(0, 32)), ("k", slice(32, 64)), ("v", slice(64, 96)))
        }
        moved["o"] = not torch.equal(end[f"{name}.out_proj.weight"], start[f"{name}.out_proj.weight"])
        assert moved == {role: role in roles for role in "qkvo"}
    untouched = [name for name in start if "attention" not in name]
    assert all(torch.equal(start[name], end[name]) for name in untouched)


PLAIN = f"""{TOY}
import json, sys
from peft import PeftModel
folders, tokens = json.loads(sys.stdin.read())
outputs = []
for folder in folders:
    model = Toy(BertConfig(vocab_size=100, hidden_size=32, num_attention_heads=4))
    with torch.no_grad():
        outputs.append(PeftModel.from_pretrained(model, folder).eval()(torch.tensor(tokens))[0].tolist())
assert "qvtune" not in sys.modules
print(json.dumps(outputs))
"""


def test_adapters_in_plain_peft(tmp_path: Path) -> None:
    ours = {}
    for roles in ("qv", "k", "qkv"):
        model = adapt(build(), roles=roles, rank=3, alpha=5, head=[])
        torch.manual_seed(2)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        save_adapter(model, tmp_path / roles)
        with torch.no_grad():
            ours[roles] = model.eval()(IDS)[0]
            assert (ours[roles] - build()(IDS)[0]).abs().max() > 1e-3
            assert torch.equal(load_adapter(build(), tmp_path / roles).eval()(IDS)[0], ours[roles])
    given = json.dumps([[str(tmp_path / roles) for roles in ours], IDS.tolist()])
    done = subprocess.run([sys.executable, "-c", PLAIN], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for roles, theirs in zip(ours, json.loads(done.stdout), strict=True):
        assert_near(ours[roles], torch.tensor(theirs))


def test_an_output_that_peft_would_add_twice_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(AdaptError, match=r"PEFT adds an adapter .* twice.*qvtune\.restore"):
        save_adapter(adapt(build(), roles="vo", head=[]), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("method", ["dora", "rslora", "pissa", "olora", "loraplus", "loftq", "ia3", "vera"])
def test_other_methods_are_saved_and_undone(method: str, tmp_path: Path) -> None:
    check_saved_and_undone(method, build, IDS, tmp_path, roles="qv", head=[])
