"""Every role at once: adapters in plain PEFT, methods, the fast path and telemetry, on models of each layout."""

import copy
from pathlib import Path

import pytest
import torch
from fused import tokens
from methods_table import IN_PEFT, NAMES, SAVED_WHOLE, adapted, inputs, logits, stirred
from models import assert_same_state, fitting, snapshot
from networks import Net, every_net
from peft import PeftModel
from rounding import Exact, assert_near
from torch import Tensor, nn

from qvtune.adaptation import adapt, count_parameters, restore
from qvtune.adapters import load_adapter, loads_in_peft, save_adapter
from qvtune.fast.fast_path import make_fast, undo_fast
from qvtune.groups import param_groups
from qvtune.roles.attention import parse_roles
from qvtune.roles.find import find_attention
from qvtune.theory.bound import generalization_bound
from qvtune.training.output_change import OutputMeter
from qvtune.training.telemetry import RoleTelemetry

FOUR = ("llama", "gpt2", "phi3", "bert")


def found(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**tokens())[0]


def stirred_lora(net: Net, roles: str, method: str = "lora", rank: int = 3) -> nn.Module:
    torch.manual_seed(1)
    model = adapt(net.build(), roles=roles, method=method, **fitting(method, rank=rank, alpha=5.0, dropout=0.0))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@every_net(*FOUR, "modernbert", "glm")
@pytest.mark.parametrize("roles", ["all", "mlp", "vd"])
def test_an_adapter_loads_in_plain_peft_with_the_same_logits(net: Net, roles: str, tmp_path: Path) -> None:
    model = stirred_lora(net, roles)
    expected = found(model)
    assert (expected - found(net.build())).abs().max() > 1e-3
    assert loads_in_peft(model)
    save_adapter(model, tmp_path)
    assert_near(found(PeftModel.from_pretrained(net.build(), tmp_path).eval()), expected)
    assert torch.equal(found(load_adapter(net.build(), tmp_path).eval()), expected)
    assert_near(found(restore(model).eval()), expected)


@every_net("phi3")
@pytest.mark.parametrize("method", ["dora", "rslora", "pissa", "olora", "loraplus"])
def test_relatives_of_lora_on_a_fused_gate(net: Net, method: str, tmp_path: Path) -> None:
    model = stirred_lora(net, "qgd", method)
    expected = found(model)
    save_adapter(model, tmp_path)
    assert_near(found(PeftModel.from_pretrained(net.build(), tmp_path).eval()), expected)
    assert_near(found(load_adapter(net.build(), tmp_path).eval()), expected)


@pytest.mark.parametrize("method", [name for name in NAMES if name != "head"])
def test_every_method_trains_the_feed_forward_alone(method: str, tmp_path: Path) -> None:
    model = adapted(method, roles="mlp")
    names = {name for group in param_groups(model, lr=1e-2) for name in group["param_names"]}
    parts = (".intermediate.dense.", ".output.dense.")
    trained = {name for name in names if "classifier" not in name}
    assert trained
    assert all(".attention." not in name and any(part in name for part in parts) for name in trained)
    groups = [group["name"] for group in param_groups(model, lr=1e-2) if not group["name"].startswith("head")]
    assert {name.split("_")[0] for name in groups} == {"up", "down"}
    assert set(count_parameters(model).by_role) == {"up", "down"}


@pytest.mark.parametrize("method", [name for name in NAMES if name not in SAVED_WHOLE and name != "head"])
def test_every_adapter_of_the_feed_forward_is_saved_and_loaded(method: str, tmp_path: Path) -> None:
    model = stirred(method, roles="all")
    save_adapter(model, tmp_path)
    from methods_table import base

    assert torch.equal(logits(load_adapter(base("bert"), tmp_path).eval()), logits(model))
    assert loads_in_peft(model) == (method in IN_PEFT)


@every_net(*FOUR, "modernbert")
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_fast_path_computes_the_same(net: Net, method: str) -> None:
    torch.manual_seed(0)
    plain = adapt(net.build(), roles="all", method=method, **fitting(method, rank=4, alpha=8.0, dropout=0.0)).eval()
    for name, parameter in plain.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()

    def loss_and_gradients(model: nn.Module) -> dict[str, Tensor]:
        model.zero_grad()
        loss = model(**tokens(4, 12), labels=torch.tensor([0, 1, 0, 1])).loss
        loss.backward()
        return {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    fast = make_fast(copy.deepcopy(plain))
    twin = copy.deepcopy(plain).double()
    gradients = loss_and_gradients(fast)
    assert sum("mlp" in n or "intermediate" in n or "output.dense" in n for n in gradients) > 3
    Exact.of(lambda: loss_and_gradients(twin)).accept(gradients, loss_and_gradients(plain))
    before = snapshot(fast)
    assert_same_state(before, undo_fast(fast))


@every_net("llama", "phi3", "bert")
def test_the_output_change_of_a_feed_forward(net: Net) -> None:
    """By hand: the output of down for the inputs of the first layer, before and after a step of one role alone."""
    model = adapt(net.build(), roles="mlp", method="full", head=[]).eval()
    roles = net.letters
    meter = OutputMeter(model, layers=2, sequences=2)
    with meter.watching():
        model(**tokens())[0].pow(2).mean().backward()
    before = meter.weights()
    start = copy.deepcopy(model).double()
    torch.optim.SGD(param_groups(model, lr=0.5), lr=1.0).step()
    end = copy.deepcopy(model).double()
    measured = meter.measure(before)
    assert set(measured) == {{"g": "gate", "u": "up", "d": "down"}[role] for role in roles}

    for role in roles:
        changes = []
        for index in range(2):
            down, part = (_trained(net, r).format(index) for r in ("d", role))
            changed = copy.deepcopy(start)
            changed.get_submodule(part).load_state_dict(end.get_submodule(part).state_dict())
            old, new = _down(start, down), _down(changed, down)
            changes.append((new - old).norm() / old.norm())
        name = {"g": "gate", "u": "up", "d": "down"}[role]
        assert measured[name] == pytest.approx(float(torch.stack(changes).mean()), rel=1e-3)


def _trained(net: Net, role: str) -> str:
    return net.roles[role] + (f".{ {'g': 'gate', 'u': 'up'}[role] }" if role in net.halves else "")


def _down(model: nn.Module, name: str) -> Tensor:
    seen: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(out))
    found(model)
    hook.remove()
    return seen[0]


def test_telemetry_names_every_role_that_trains() -> None:
    model = adapted("lora", roles="all")
    telemetry = RoleTelemetry(model, every=1)
    optimizer = torch.optim.AdamW(param_groups(model, lr=1e-2))
    with telemetry.watching(1):
        model(**inputs("bert")).loss.backward()
    optimizer.step()
    sizes = telemetry.measure(has_stepped=True)
    roles = {"query", "key", "value", "output", "up", "down"}
    assert {name.partition("/")[2] for name in sizes if name.startswith("update/")} == roles
    assert {name.partition("/")[2] for name in sizes if name.startswith("step/")} == roles
    assert {name.partition("/")[2] for name in sizes if name.startswith("output/")} == roles | {"query_key"}


@pytest.mark.parametrize(
    ("given", "letters"),
    [("mlp", "gud"), ("attention", "qkvo"), ("all", "qkvogud"), ("duq", "qud"), ("qv,mlp", "qvgud"),
     (["mlp", "v"], "vgud"), ("v mlp", "vgud")],
)  # fmt: skip
def test_sets_of_roles(given: object, letters: str) -> None:
    assert parse_roles(given) == letters  # type: ignore[arg-type]


@every_net(*FOUR)
def test_the_bound_counts_what_trains(net: Net) -> None:
    model = net.build()
    bound = generalization_bound(find_attention(model), roles="all", rank=3, examples=100)
    counts = count_parameters(adapt(model, roles="all", rank=3))
    assert bound.numbers == counts.adapter
    assert list(bound.roles) == [role for role in "qkvogud" if role in "qkvo" + net.letters]
