"""Gate, up and down: found by structure, measured, trained alone, declared by hand, refused where unsure."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from fused import FUSED_BY_ID, tokens
from models import assert_same_state, build, snapshot
from networks import NETS, NETS_BY_ID, Net, every_net
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralModel
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP

from qvtune.adaptation import adapt, count_parameters, restore
from qvtune.errors import AdaptError, RateError, RoleError
from qvtune.groups import param_groups
from qvtune.roles.attention import AttentionMap
from qvtune.roles.declare import declare_attention, read_declaration
from qvtune.roles.find import find_attention


def weight_of(model: nn.Module, name: str) -> Tensor:
    """A weight as (rows, inputs)."""
    module = model.get_submodule(name)
    return module.weight.detach().T if type(module).__name__ == "Conv1D" else module.weight.detach()


@every_net()
def test_every_role_is_where_the_models_code_has_it(net: Net) -> None:
    model = net.build()
    attention = find_attention(model)
    assert attention.verified
    assert not attention.unknown
    assert not attention.experts
    assert [layer.index for layer in attention.feed_forward] == list(range(net.layers))
    for index, layer in enumerate(attention.feed_forward):
        assert "".join(p.role for p in layer.projections) == net.letters
        for role, module in net.roles.items():
            projection = layer[role]
            assert projection.module == module.format(index)
            assert projection.rows.indices() == net.rows(role, len(weight_of(model, projection.module)))
    assert AttentionMap.from_dict(attention.to_dict()) == attention
    assert find_attention(model, verify=False).projections("gud") == attention.projections("gud")


@every_net("llama", "phi3", "glm", "modernbert", "mt5-encoder")
def test_the_gate_is_what_the_activation_acts_on(net: Net) -> None:
    """The input of down is act(gate x) * up x, computed here from the rows that were found."""
    model = net.build().double()
    layer = find_attention(model).feed_forward[0]
    seen: dict[str, Tensor] = {}
    model.get_submodule(layer["u"].module).register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    model.get_submodule(layer["d"].module).register_forward_pre_hook(lambda m, args: seen.update(c=args[0]))
    with torch.no_grad():
        model(**tokens())
    gate, up = (
        seen["x"] @ weight_of(model, layer[role].module)[torch.tensor(layer[role].rows.indices())].T for role in "gu"
    )
    act = next(m for n, m in model.get_submodule(layer.name).named_modules() if n in ("act_fn", "act", "activation_fn"))
    assert torch.allclose(act(gate) * up, seen["c"], rtol=1e-10)
    assert not torch.allclose(act(up) * gate, seen["c"], rtol=1e-3)


class UpFirst(Phi3MLP):
    def forward(self, hidden_states: Tensor) -> Tensor:
        up, gate = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.down_proj(up * self.activation_fn(gate))


class RowByRow(Phi3MLP):
    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden_states).unflatten(-1, (-1, 2)).unbind(-1)
        return self.down_proj(up * self.activation_fn(gate))


class UpFirstRowByRow(Phi3MLP):
    def forward(self, hidden_states: Tensor) -> Tensor:
        up, gate = self.gate_up_proj(hidden_states).unflatten(-1, (-1, 2)).unbind(-1)
        return self.down_proj(up * self.activation_fn(gate))


class Quarters(Phi3MLP):
    def forward(self, hidden_states: Tensor) -> Tensor:
        first, second, third, fourth = self.gate_up_proj(hidden_states).chunk(4, dim=-1)
        product = torch.cat([second * self.activation_fn(first), fourth * self.activation_fn(third)], dim=-1)
        return self.down_proj(product)


def with_networks(model: nn.Module, kind: type) -> nn.Module:
    for module in list(model.modules()):
        if isinstance(module, (LlamaMLP, Phi3MLP)):
            module.__class__ = kind
    return model


@pytest.mark.parametrize(
    ("kind", "layout", "gate"),
    [
        (UpFirst, "up_gate", range(48, 96)),
        (RowByRow, "gate_up_rows", range(0, 96, 2)),
        (UpFirstRowByRow, "up_gate_rows", range(1, 96, 2)),
    ],
)
def test_which_rows_are_which_is_measured(kind: type, layout: str, gate: range) -> None:
    model = with_networks(FUSED_BY_ID["phi3"].build(), kind)
    for layer in find_attention(model).feed_forward:
        assert layer.layout == layout
        assert layer["g"].rows.indices() == list(gate)
        assert sorted([*layer["g"].rows.indices(), *layer["u"].rows.indices()]) == list(range(96))


class Swapped(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))


class Relu(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(torch.relu(self.gate_proj(x)) * self.up_proj(x))


class Normed(LlamaMLP):
    """As in BitNet: the size of the product is lost, its sign is not."""

    def forward(self, x: Tensor) -> Tensor:
        product = torch.relu(self.gate_proj(x)) ** 2 * self.up_proj(x)
        return self.down_proj(nn.functional.layer_norm(product, product.shape[-1:], bias=torch.ones(48)))


class Bilinear(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.gate_proj(x) * self.up_proj(x))


@pytest.mark.parametrize(("kind", "gate"), [(Swapped, "up_proj"), (Relu, "gate_proj"), (Normed, "gate_proj")])
def test_names_are_only_hints(kind: type, gate: str) -> None:
    layer = find_attention(with_networks(build("llama"), kind)).feed_forward[1]
    assert layer["g"].module == f"model.layers.1.mlp.{gate}"
    assert {p.module.rpartition(".")[2] for p in layer.projections} == {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [(Bilinear, "llama", "linear in both parts of .*gate_proj' and "), (Quarters, "phi3", "linear in no part of 'the")],
)
def test_an_unsure_layout_is_refused_and_attention_still_trains(kind: type, name: str, why: str) -> None:
    model = with_networks(NETS_BY_ID[name].build(), kind)
    before = snapshot(model)
    with pytest.raises(RoleError, match=rf"(?s)'model.layers.0.mlp' \({kind.__name__}\).*{why}.*declare_attention"):
        adapt(model, roles="gud")
    assert_same_state(before, model)
    assert count_parameters(adapt(model, roles="qv")).by_role.keys() == {"query", "value"}


def step(model: nn.Module, roles: str) -> nn.Module:
    adapted = adapt(model, roles=roles, method="full", head=[])
    adapted(**tokens())[0].pow(2).sum().backward()
    torch.optim.SGD(param_groups(adapted, lr=0.1), lr=1.0).step()
    return restore(adapted)


CHOSEN = [(net, roles) for net in NETS for roles in ("g", "u", "d", "gd") if set(roles) <= set(net.letters)]


@pytest.mark.parametrize(("net", "roles"), CHOSEN, ids=[f"{net.id}-{roles}" for net, roles in CHOSEN])
def test_a_step_changes_exactly_the_rows_of_the_chosen_roles(net: Net, roles: str) -> None:
    model = net.build()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    after = dict(step(model, roles).named_parameters())
    assert before.keys() == after.keys()
    trained: dict[str, set[int]] = {}
    for index in range(net.layers):
        for role in roles:
            module = net.roles[role].format(index)
            rows = net.rows(role, len(weight_of(model, module)))
            trained.setdefault(module, set()).update(rows)
    for name, old in before.items():
        module, _, kind = name.rpartition(".")
        moved = old != after[name].detach()
        if kind == "weight" and type(model.get_submodule(module)).__name__ == "Conv1D":
            moved = moved.T
        rows = sorted(set(moved.flatten(1).any(dim=1).nonzero().flatten().tolist()) if moved.dim() > 1 else
                      set(moved.nonzero().flatten().tolist()))  # fmt: skip
        assert rows == sorted(trained.get(module, ())), name


def test_rates_reach_their_rows() -> None:
    """One step of plain SGD is rate times gradient, and the gradient is that of the whole matrix."""
    model = NETS_BY_ID["phi3"].build().double()
    whole = copy.deepcopy(model)
    whole(**tokens())[0].pow(2).sum().backward()
    start = copy.deepcopy(model)
    adapted = adapt(model, roles="vgud", method="full", head=[])
    groups = param_groups(adapted, lr=1e-3, lr_ratio=8, rates={"gate": 5e-4, "u": "3x"})
    names = {group["name"]: group["lr"] for group in groups}
    assert names == pytest.approx({"value": 8e-3, "gate": 5e-4, "up": 3e-3, "down": 1e-3}, rel=1e-12)
    adapted(**tokens())[0].pow(2).sum().backward()
    torch.optim.SGD(groups, lr=1.0).step()
    trained = restore(adapted)
    for module, half, rate in (("gate_up_proj", 0, 5e-4), ("gate_up_proj", 1, 3e-3), ("down_proj", None, 1e-3)):
        name = f"model.layers.1.mlp.{module}"
        rows = slice(None) if half is None else slice(48 * half, 48 * half + 48)
        gradient = whole.get_submodule(name).weight.grad
        change = trained.get_submodule(name).weight.detach() - start.get_submodule(name).weight.detach()
        assert torch.allclose(change[rows], -rate * gradient[rows], rtol=1e-6, atol=1e-14)


def test_groups_hold_every_trained_parameter_once() -> None:
    adapted = adapt(build("llama"), roles="all", rank=4)
    groups = param_groups(adapted, lr=1e-3)
    held = [name for group in groups for name in group["param_names"]]
    assert sorted(held) == sorted(set(held))
    trainable = {n for n, p in adapted.get_base_model().named_parameters() if p.requires_grad}
    assert set(held) == trainable
    by_name = {group["name"]: group["param_names"] for group in groups}
    for role, module in (("gate", "gate_proj"), ("up", "up_proj"), ("down", "down_proj")):
        assert len(by_name[role]) == 4
        assert all(f".mlp.{module}.lora_" in name for name in by_name[role])


def test_without_a_gate_gud_is_up_and_down() -> None:
    adapted = adapt(build("bert"), roles="mlp", rank=4)
    assert count_parameters(adapted).by_role == {"up": 2 * 4 * (32 + 48), "down": 2 * 4 * (32 + 48)}
    with pytest.raises(RateError, match="a rate of the gate is given, and no gate trains in this model"):
        param_groups(adapted, lr=1e-3, rates={"g": "2x"})
    with pytest.raises(AdaptError, match="role 'g' was asked for, and this model has no gate"):
        adapt(build("bert"), roles="g")


def test_layers_are_those_of_the_block() -> None:
    attention = find_attention(build("t5"))
    for layer in attention.feed_forward:
        block = layer.name.partition(".layer.")[0]
        partner = next(other for other in attention if other.name.startswith(f"{block}."))
        assert (layer.stack, layer.index) == (partner.stack, partner.index)
    adapted = adapt(build("llama"), roles="vu", layers=[-1], method="full", head=[])
    assert {n for n, p in adapted.named_parameters() if p.requires_grad} == {
        "model.layers.1.self_attn.v_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    }


MIXTRAL = MixtralConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
    vocab_size=100, num_local_experts=4, num_experts_per_tok=2, pad_token_id=0,
)  # fmt: skip


def test_routed_experts_alone_are_refused_by_name() -> None:
    model = MixtralModel(MIXTRAL)
    attention = find_attention(model)
    assert [part.module for part in attention.experts] == ["layers.0.mlp.experts", "layers.1.mlp.experts"]
    with pytest.raises(RoleError, match=r"stays frozen: 'layers.0.mlp.experts' \(MixtralExperts\) and 1 more holds"):
        adapt(model, roles="qvu")
    assert count_parameters(adapt(model, roles="qv")).trainable


def test_a_shared_expert_trains_and_routed_ones_stay() -> None:
    model = FUSED_BY_ID["qwen3-next"].build()
    attention = find_attention(model)
    assert {layer.kind for layer in attention.feed_forward} == {"shared"}
    assert [part.module for part in attention.experts] == ["layers.0.mlp.experts", "layers.1.mlp.experts"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    after = dict(step(copy.deepcopy(model), "gud").named_parameters())
    moved = {name for name, old in before.items() if not torch.equal(old, after[name])}
    parts = [f"layers.{i}.mlp.shared_expert.{part}_proj.weight" for i in (0, 1) for part in ("gate", "up", "down")]
    assert moved == set(parts)
    # PEFT would give the factors to all experts instead.
    with pytest.raises(AdaptError, match=r"shared_expert.gate_proj' for a part of the experts 'layers.0.mlp.experts'"):
        adapt(model, roles="gud", rank=4)
    assert count_parameters(adapt(model, roles="gud", method="ia3")).by_role == {"gate": 32, "up": 32, "down": 64}


UP_DOWN = {"u": "model.layers.*.mlp.up_proj", "d": "model.layers.*.mlp.down_proj"}
GATED = {"g": "model.layers.*.mlp.gate_proj", **UP_DOWN}


def test_what_is_found_can_be_declared() -> None:
    model = build("llama")
    assert declare_attention(model, GATED) == find_attention(model)
    phi = FUSED_BY_ID["phi3"].build()
    fused = {
        "g": ("model.layers.*.mlp.gate_up_proj", range(48)),
        "u": ("model.layers.*.mlp.gate_up_proj", range(48, 96)),
        "d": "model.layers.*.mlp.down_proj",
    }
    assert declare_attention(phi, fused).projections("gud") == find_attention(phi).projections("gud")


def test_a_declaration_opens_a_layout_that_is_not_known(tmp_path: Path) -> None:
    model = build("llama")
    for layer in model.model.layers:
        layer.mlp.alpha, layer.mlp.beta, layer.mlp.gamma = (getattr(layer.mlp, f"{n}_proj") for n in GATED_NAMES)
        del layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj
    with_networks(model, Renamed)
    with pytest.raises(RoleError, match=r"'model.layers.0.mlp' \(RenamedMLP\)"):
        adapt(model, roles="gud")
    file = tmp_path / "roles.yaml"
    file.write_text("g: model.layers.*.mlp.alpha\nu: model.layers.*.mlp.beta\nd: model.layers.*.mlp.gamma\n")
    roles, heads = read_declaration(file)
    assert heads is None
    adapted = adapt(model, roles="all", rank=4, attention=declare_attention(model, roles))
    assert list(count_parameters(adapted).by_role) == ["query", "key", "value", "output", "gate", "up", "down"]


GATED_NAMES = ("gate", "up", "down")


class Renamed(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.gamma(self.act_fn(self.alpha(x)) * self.beta(x))


Renamed.__name__ = "RenamedMLP"


@pytest.mark.parametrize(
    ("roles", "options", "problem"),
    [
        ({"u": UP_DOWN["u"]}, {}, "declare q, k, v and, where there is one, o; or u, d"),
        ({"q": "model.layers.*.self_attn.q_proj", **UP_DOWN}, {}, "declare q, k, v"),
        ({"x": "model.layers.*.mlp.up_proj"}, {}, "declare q, k, v"),
        ({**GATED, "u": GATED["g"], "g": GATED["u"]}, {}, r"contradicts the declared feed-forward .*up is '.*up_proj'"),
        ({**UP_DOWN, "d": "model.layers.*.self_attn.o_proj"}, {}, "gives 48 rows to the up, and .* takes 32 inputs"),
        ({**UP_DOWN, "u": "model.layers.*.mlp.up_prj"}, {}, "no module is called .*Did you mean"),
        ({role: f"model.layers.*.self_attn.{role}_proj" for role in "qkv"}, {}, "the number of heads is missing"),
    ],
)
def test_a_wrong_declaration_is_refused(roles: dict[str, Any], options: dict[str, Any], problem: str) -> None:
    with pytest.raises(RoleError, match=problem):
        declare_attention(build("llama"), roles, **options)
