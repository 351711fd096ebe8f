"""XLNet's raw parameters as linear layers: the same numbers, the parameters back bit for bit, adapters for PEFT."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from methods_table import check_saved_and_undone
from models import assert_same_state, fitting, snapshot
from rounding import assert_near, assert_stepped
from torch import nn
from transformers import XLNetConfig, XLNetForSequenceClassification, XLNetModel

from qvtune.adaptation import adapt, count_parameters, restore
from qvtune.adapters import load_adapter, save_adapter
from qvtune.errors import AdaptError, RoleError
from qvtune.groups import param_groups
from qvtune.methods.adapted import adaptation_of
from qvtune.roles.attention import AttentionMap
from qvtune.roles.find import find_attention
from qvtune.roles.relative import SplitRelative

IDS = torch.tensor([[5, 9, 3, 7, 8, 2], [6, 4, 4, 11, 2, 3]])
NAME = "transformer.layer.{}.rel_attn.{}"


def build(model_class: type = XLNetForSequenceClassification, **options) -> nn.Module:
    torch.manual_seed(0)
    # 4 heads of size 8: width, heads and size differ, so that no axis is taken for another
    model = model_class(XLNetConfig(vocab_size=100, d_model=32, n_layer=2, n_head=4, d_inner=48, **options))
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def split_by_hand(model: nn.Module) -> nn.Module:
    """Return a copy of a model with every attention module split, without `adapt`."""
    model = copy.deepcopy(model)
    for layer in model.get_submodule("layer"):
        layer.rel_attn = SplitRelative(layer.rel_attn)
    return model


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)[0]


def arguments(case: str) -> dict:
    torch.manual_seed(1)
    mapping = torch.zeros(2, 3, 6, dtype=torch.float64)
    mapping[:, range(3), [1, 4, 5]] = 1.0
    hidden = (torch.arange(6)[:, None] < torch.tensor([1, 4, 5, 2, 3, 0])[None]).double().expand(2, 6, 6)
    return {
        "one stream": {},
        "both streams": {"perm_mask": hidden, "target_mapping": mapping},
        "padding and segments": {
            "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]),
            "token_type_ids": torch.tensor([[0, 0, 1, 1, 2, 2]] * 2),
        },
        "memory": {"mems": [torch.randn(4, 2, 32, dtype=torch.float64) for _ in range(2)], "use_mems": True},
        "memory and both streams": {
            "mems": [torch.randn(4, 2, 32, dtype=torch.float64) for _ in range(2)],
            "use_mems": True,
            "perm_mask": hidden,
            "target_mapping": mapping,
        },
    }[case]


CASES = ["one stream", "both streams", "padding and segments", "memory", "memory and both streams"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_xlnet_computes(case: str, training: bool) -> None:
    plain = build(XLNetModel, mem_len=5, dropout=0.3).double()
    plain.dropout.register_forward_hook(lambda module, args, out: out.double())  # XLNet makes positions in float32
    split = split_by_hand(plain)
    found = []
    for model in (plain, split):
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model.train(training)(IDS, output_attentions=True, **arguments(case)))
    wanted, ours = found
    for name in ("last_hidden_state", "attentions", "mems"):
        torch.testing.assert_close(ours.get(name), wanted.get(name), rtol=0, atol=1e-12)
    assert wanted.last_hidden_state.shape == (2, 3 if "both" in case else 6, 32)
    assert wanted.attentions[0][0].shape[-1] == (10 if "memory" in case else 6)


def test_it_is_found_measured_and_left_as_it_was() -> None:
    model = build()
    model.transformer.layer[0].rel_attn.layer_norm.train()
    before, parameters = snapshot(model), [id(p) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    attention = find_attention(model)
    assert attention.verified
    assert [(layer.name, layer.layout, layer.heads, layer.head_dim, layer.kind) for layer in attention] == [
        (f"transformer.layer.{index}.rel_attn", "relative", 4, 8, "self") for index in (0, 1)
    ]
    assert [p.module for p in attention.layers[1].projections] == [NAME.format(1, role) for role in "qkvo"]
    assert AttentionMap.from_dict(json.loads(json.dumps(attention.to_dict()))) == attention
    assert_same_state(before, model)
    assert [id(p) for p in model.parameters()] == parameters
    assert [module.training for module in model.modules()] == modes


def test_keys_and_values_that_are_swapped_are_refused() -> None:
    model = build()
    core = model.transformer.layer[1].rel_attn
    honest = type(core)

    class Liar(honest):
        def rel_attn_core(self, query, key, value, *args, **kwargs):
            return honest.rel_attn_core(self, query, value, key, *args, **kwargs)

    Liar.__name__ = honest.__name__
    core.__class__ = Liar
    with pytest.raises(RoleError, match=r"rel_attn\.k' was taken for the key and behaves like a value"):
        find_attention(model)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("roles", ["qv", "k", "o", "qkvo"])
def test_only_the_chosen_roles_train(method: str, roles: str) -> None:
    model = build()
    start = snapshot(model)
    adapted = adapt(model, roles=roles, method=method, **fitting(method, rank=4), head=[]).train()
    optimizer = torch.optim.AdamW(param_groups(adapted, lr=0.01, weight_decay=0.1))
    for _ in range(3):
        adapted(IDS)[0].pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    restored = restore(adapted)
    end = restored.state_dict()
    assert list(end) == list(start)
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved == {NAME.format(index, role) for index in (0, 1) for role in roles}
    assert type(restored.transformer.layer[0].rel_attn).__name__ == "XLNetRelativeAttention"


def test_each_role_moves_at_its_own_rate() -> None:
    """One step of plain SGD is rate times the gradient that the raw parameters get in plain XLNet."""
    whole = build()
    whole(IDS)[0].pow(2).sum().backward()
    adapted = adapt(build(), roles="qvo", method="full", head=[])
    groups = param_groups(adapted, lr=1e-3, lr_ratio=8)
    assert {group["name"]: group["lr"] for group in groups} == {"query": 1e-3, "value": 8e-3, "output": 1e-3}
    adapted(IDS)[0].pow(2).sum().backward()
    torch.optim.SGD(groups, lr=1.0).step()
    trained = dict(restore(adapted).named_parameters())
    for index in (0, 1):
        for role, rate in (("q", 1e-3), ("k", 0.0), ("v", 8e-3), ("o", 1e-3), ("r", 0.0)):
            before = whole.get_parameter(NAME.format(index, role))
            assert before.grad.any()
            assert_stepped(trained[NAME.format(index, role)], before, -rate * before.grad)


def test_a_model_that_was_not_adapted_has_groups_too() -> None:
    model = build().requires_grad_(False)
    for role in "qv":
        model.get_parameter(NAME.format(1, role)).requires_grad_(True)
    groups = param_groups(model, lr=1e-3, lr_ratio=2)
    assert {group["name"]: group["param_names"] for group in groups} == {
        "query": [NAME.format(1, "q")],
        "value": [NAME.format(1, "v")],
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapted_and_restored_it_is_the_same_bit_for_bit(dtype: torch.dtype) -> None:
    model = build().to(dtype)
    before, plain = snapshot(model), outputs(model)
    adapted = adapt(model, roles="qkvo", rank=2, head=[])
    if dtype == torch.float32:
        assert_near(outputs(adapted.eval()), plain)
    else:
        torch.testing.assert_close(outputs(adapted.eval()), plain, rtol=0, atol=2e-2)
    assert count_parameters(adapted).by_role == dict.fromkeys(("query", "key", "value", "output"), 2 * 2 * (32 + 32))
    assert_same_state(before, restore(adapted))


def test_full_training_in_few_bits_is_refused() -> None:
    with pytest.raises(AdaptError, match=r"rel_attn\.q' is bfloat16"):
        adapt(build().to(torch.bfloat16), method="full", head=[])


def test_a_split_model_saves_and_loads_in_its_original_shape(tmp_path: Path) -> None:
    model = adapt(build(), roles="qvo", method="full", head=[])
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    loaded, told = XLNetForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert (told["missing_keys"], told["unexpected_keys"]) == (set(), set())
    assert_same_state(snapshot(loaded), restore(copy.deepcopy(model)))
    other = adapt(build(), roles="k", method="full", head=[])
    other.load_state_dict(loaded.state_dict())
    assert torch.equal(outputs(other.eval()), outputs(model.eval()))


PLAIN = """
import json, sys, torch
from peft import PeftModel
from transformers import XLNetForSequenceClassification
base, adapters, tokens = json.loads(sys.stdin.read())
found = []
for adapter in adapters:
    model = PeftModel.from_pretrained(XLNetForSequenceClassification.from_pretrained(base), adapter).eval()
    with torch.no_grad():
        alone = model(torch.tensor(tokens))[0].tolist()
        found.append([alone, model.merge_and_unload()(torch.tensor(tokens))[0].tolist()])
assert "qvtune" not in sys.modules
print(json.dumps(found))
"""


def test_adapters_in_plain_peft(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "base")
    ours = {}
    for roles, layers in (("qv", None), ("o", [1]), ("qkvo", None)):
        folder = str(tmp_path / roles)
        model = adapt(build(), roles=roles, layers=layers, rank=3, alpha=5)
        torch.manual_seed(2)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        ours[folder] = outputs(model.eval())
        assert (ours[folder] - outputs(build())).abs().max() > 1e-2
        save_adapter(model, folder)
        back = load_adapter(build(), folder).eval()
        assert torch.equal(outputs(back), ours[folder])
        assert adaptation_of(back) == adaptation_of(model)
        assert_near(outputs(restore(back).eval()), ours[folder])
    given = json.dumps([str(tmp_path / "base"), list(ours), IDS.tolist()])
    done = subprocess.run([sys.executable, "-c", PLAIN], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for expected, both in zip(ours.values(), json.loads(done.stdout), strict=True):
        for theirs in both:
            assert_near(expected, torch.tensor(theirs))


@pytest.mark.parametrize("method", ["dora", "rslora", "pissa", "olora", "loraplus", "loftq", "ia3", "vera"])
def test_other_methods_are_saved_and_undone(method: str, tmp_path: Path) -> None:
    check_saved_and_undone(method, build, IDS, tmp_path, roles="qvo")
