"""Layouts that no table knows: refused with what was measured, and made to work by hand."""

import json
from pathlib import Path

import pytest
import torch
from fused import FUSED_BY_ID
from models import BY_ID, build
from torch import nn
from transformers import BertConfig, PreTrainedModel

from qvtune.adaptation import adapt, restore
from qvtune.cli.main import main
from qvtune.errors import RoleError
from qvtune.groups import param_groups
from qvtune.roles.declare import declare_attention, read_declaration
from qvtune.roles.find import find_attention
from qvtune.roles.layouts import Rows

WIDTH, HEADS = 32, 4
IDS = torch.tensor([[5, 9, 3, 7, 8, 2]])


class OddAttention(nn.Module):
    """Its matrix is called as many are, and has value, query and key in an order that no one uses."""

    name = "qkv"

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.add_module(self.name, nn.Linear(WIDTH, 3 * WIDTH))
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        value, query, key = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in getattr(self, self.name)(hidden).chunk(3, dim=-1)
        )
        context = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.proj(context.transpose(1, 2).flatten(2))


class MisnamedAttention(nn.Module):
    """Its `value` is in truth the key, and its `key` the value."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part(hidden).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.value, self.key)
        )
        context = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.dense(context.transpose(1, 2).flatten(2))


class UnknownAttention(OddAttention):
    """The same under a name that is in no table."""

    name = "mixture"


class Model(PreTrainedModel):
    config_class = BertConfig

    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__(BertConfig(vocab_size=100, hidden_size=WIDTH, num_attention_heads=HEADS))
        torch.manual_seed(0)
        self.embed = nn.Embedding(100, WIDTH)
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": attention()}) for _ in range(2)])
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, input_ids: torch.Tensor, **kwargs: object) -> tuple[torch.Tensor]:
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = hidden + block["attn"](hidden)
        return (hidden,)


ODD = {
    "q": ("blocks.*.attn.qkv", range(32, 64)),
    "k": ("blocks.*.attn.qkv", range(64, 96)),
    "v": ("blocks.*.attn.qkv", range(32)),
    "o": "blocks.*.attn.proj",
}
MISNAMED = {
    role: f"blocks.*.attn.{name}" for role, name in zip("qkvo", ("query", "value", "key", "dense"), strict=True)
}


def test_an_order_that_no_one_uses_is_refused_with_what_was_measured() -> None:
    with pytest.raises(RoleError) as caught:
        find_attention(Model(OddAttention))
    text = str(caught.value)
    assert "the probe contradicts the structure of 'blocks.0.attn'" in text
    assert "'blocks.0.attn.qkv, rows 0 to 31' was taken for the query and behaves like a value" in text
    assert "'blocks.0.attn.qkv, rows 32 to 63' was taken for the key and behaves like a query" in text
    assert "'blocks.0.attn.qkv, rows 64 to 95' was taken for the value and behaves like a key" in text
    assert "Probed: a value scales the context" in text
    assert "declare_attention" in text


def test_a_key_called_value_is_refused_with_what_was_measured() -> None:
    with pytest.raises(RoleError) as caught:
        find_attention(Model(MisnamedAttention))
    text = str(caught.value)
    assert "'blocks.0.attn.value' was taken for the value and behaves like a key" in text
    assert "'blocks.0.attn.key' was taken for the key and behaves like a value" in text


def test_unknown_names_are_refused_with_what_was_found() -> None:
    with pytest.raises(RoleError, match=r"blocks\.0\.attn \(UnknownAttention: mixture, proj\).*declare_attention"):
        find_attention(Model(UnknownAttention))


@pytest.mark.parametrize(
    ("kind", "roles", "value"),
    [
        (OddAttention, ODD, ("qkv", slice(32))),
        (MisnamedAttention, MISNAMED, ("key", slice(None))),
        (UnknownAttention, {r: (m[0].replace("qkv", "mixture"), m[1]) if r != "o" else m for r, m in ODD.items()},
         ("mixture", slice(32))),
    ],
    ids=["odd order", "misnamed", "unknown names"],
)  # fmt: skip
def test_declared_by_hand_it_is_measured_and_trains(kind: type, roles: dict, value: tuple) -> None:
    model = Model(kind)
    attention = declare_attention(model, roles, heads=HEADS)
    assert attention.verified
    assert [(layer.index, layer.heads, layer.kv_heads, layer.head_dim) for layer in attention] == [
        (0, 4, 4, 8),
        (1, 4, 4, 8),
    ]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapted = adapt(model, roles="v", rank=4, head=[], attention=attention)
    (group,) = param_groups(adapted, lr=0.1, lr_ratio=2)
    assert (group["name"], group["lr"]) == ("value", 0.2)
    optimizer = torch.optim.SGD([group], lr=1.0)
    for _ in range(2):
        adapted(IDS)[0].pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = dict(restore(adapted).named_parameters())
    module, rows = value
    for name, old in before.items():
        moved = old != after[name]
        if name.endswith(f"{module}.weight"):
            assert moved[rows].all()
            moved[rows] = False
        assert not moved.any(), name


def test_what_find_attention_finds_can_be_declared() -> None:
    model = build("llama")
    names = {role: f"model.layers.*.self_attn.{role}_proj" for role in "qkvo"}
    assert declare_attention(model, names, heads=4) == find_attention(model)
    assert [p.module for p in declare_attention(model, names, heads=4).projections("qkvo")] == BY_ID[
        "llama"
    ].projections()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"k": MISNAMED["v"], "v": MISNAMED["k"]}, "was taken for the key and behaves like a value"),
        ({"x": "blocks.*.attn.query"}, "roles are 'q', 'k', 'v', 'o', 'x'; declare q, k, v"),
        ({"q": "blocks.*.attn.qury"}, r"no module is called .*qury'\. Did you mean 'blocks\.\*\.attn\.query'"),
        ({"q": "blocks.*.attn"}, "'blocks.0.attn' is a MisnamedAttention; it must be a linear layer"),
        ({"q": "blocks.0.attn.query"}, "different numbers of layers: q 1, k 2, v 2, o 2"),
        ({"q": ("blocks.*.attn.query", range(16))}, "query' has 32 rows; declare each of them for one role"),
        ({"q": ("blocks.*.attn.query", [3, 1, 2])}, "must be ascending numbers from 0 to 31"),
        ({"q": ("blocks.*.attn.query", [0, 1, 4, 7])}, "must be runs of one length at one distance"),
    ],
)  # fmt: skip
def test_a_declaration_that_cannot_be(change: dict, text: str) -> None:
    with pytest.raises(RoleError, match=text):
        declare_attention(Model(MisnamedAttention), {**MISNAMED, **change}, heads=HEADS)


def test_heads_that_do_not_divide() -> None:
    with pytest.raises(RoleError, match="32 rows to the query, which 5 heads cannot share"):
        declare_attention(Model(MisnamedAttention), MISNAMED, heads=5)


def test_rows_that_interleave_are_understood() -> None:
    numbers = [row for head in range(4) for row in range(head * 24, head * 24 + 8)]
    assert Rows(0, 8, 24, 4).indices() == numbers


DECLARED_FILE = """\
heads: 4
q: {module: transformer.h.*.attn.c_attn, rows: 0-31}
k: {module: transformer.h.*.attn.c_attn, rows: 32-63}
v: {module: transformer.h.*.attn.c_attn, rows: "64-79,80-95"}
o: transformer.h.*.attn.c_proj
"""


def test_a_file_says_what_the_call_says(tmp_path: Path) -> None:
    (tmp_path / "roles.yaml").write_text(DECLARED_FILE)
    roles, heads = read_declaration(tmp_path / "roles.yaml")
    model = FUSED_BY_ID["gpt2"].build()
    declared, found = declare_attention(model, roles, heads=heads), find_attention(model)
    assert [layer.projections for layer in declared] == [layer.projections for layer in found]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q: [", "cannot be read as YAML"),
        ("q: a.b\n", "must hold 'heads: N'"),
        ("heads: 4\nq: {module: a}\n", "q must be a module's name, or have 'module' and 'rows'"),
        ("heads: 4\nq: {module: a, rows: first}\n", "rows 'first' are no range such as 0-31"),
    ],
)
def test_a_file_that_cannot_be(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "roles.yaml").write_text(text)
    with pytest.raises(RoleError, match=message):
        read_declaration(tmp_path / "roles.yaml")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "roles.yaml").write_text(DECLARED_FILE)
    config = FUSED_BY_ID["gpt2"].build().config
    config.save_pretrained(tmp_path)
    words = ["plan", "--model", str(tmp_path / "config.json"), "--max-length", "32"]
    words += ["--attention", str(tmp_path / "roles.yaml")]
    assert main(words) == 0
    assert "v  transformer.h.*.attn.c_attn, rows 64 to 95" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["attention"]["layers"][1]["layout"] == "declared"
    assert plan["parameters_by_role"] == {"query": 2 * 8 * (32 + 32), "value": 2 * 8 * (32 + 32)}
