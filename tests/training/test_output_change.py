"""What a change of weights does to the outputs of attention layers, against plain models in float64."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fused import FUSED_BY_ID
from methods_table import adapted, inputs
from models import BY_ID, batch, build, fitting, snapshot, stir
from torch import Tensor, nn
from transformers import XLNetConfig, XLNetForSequenceClassification

import qvtune
from qvtune.fast.fast_path import make_fast
from qvtune.methods.table import METHODS
from qvtune.training.output_change import SEQUENCES, OutputMeter
from qvtune.training.updates import step_sizes

ROWS = SEQUENCES + 3
# The output projections of models with one matrix for query, key and value.
OUTPUTS = {"gpt2": "transformer.h.{}.attn.c_proj", "bloom": "transformer.h.{}.self_attention.dense",
           "mpt": "transformer.blocks.{}.attn.out_proj"}  # fmt: skip
PARTS = {"query": "q", "key": "k", "value": "v", "output": "o", "query_key": "qk"}


def plain(name: str) -> nn.Module:
    return FUSED_BY_ID[name].build() if name in OUTPUTS else build(name)


def given(name: str) -> dict[str, Tensor]:
    data = batch(ROWS)
    mask = torch.ones_like(data["input_ids"])
    if name != "t5":  # whose classifier counts end tokens
        mask[1, -3:] = 0
    return data | {"attention_mask": mask, "labels": torch.arange(ROWS) % 2}


def put(target: nn.Module, source: nn.Module, name: str, place: str, index: int, roles: str) -> None:
    """Give one layer the weights of some roles of another model, by names written by hand."""
    if name in OUTPUTS:
        fused, there = FUSED_BY_ID[name], source.get_submodule(FUSED_BY_ID[name].module.format(index))
        here = target.get_submodule(fused.module.format(index))
        module = OUTPUTS[name].format(index)
        for kind in ("weight", "bias"):
            if getattr(here, kind) is None:
                continue
            to, of = getattr(here, kind).data, getattr(there, kind).data
            transposed = kind == "weight" and type(here).__name__ == "Conv1D"
            rows = fused.parts(torch.arange(len(to.T if transposed else to))[:, None])
            for role, part in zip("qkv", rows, strict=True):
                if role in roles:
                    (to.T if transposed else to)[part.flatten()] = (of.T if transposed else of)[part.flatten()]
    else:
        names = dict(zip("qkvo", BY_ID[name].names, strict=True))
        for role in set(roles) & set("qkv"):
            module = f"{place.format(index)}.{names[role]}"
            target.get_submodule(module).load_state_dict(source.get_submodule(module).state_dict())
        module = f"{place.format(index)}.{names['o']}"
    if "o" in roles:
        target.get_submodule(module).load_state_dict(source.get_submodule(module).state_dict())


def output(model: nn.Module, name: str, place: str, index: int, data: dict[str, Tensor]) -> Tensor:
    """What the output projection of a layer gives in a whole forward pass, for the first sequences without padding."""
    module = OUTPUTS[name].format(index) if name in OUTPUTS else f"{place.format(index)}.{BY_ID[name].names[3]}"
    seen: list[Tensor] = []
    hook = model.get_submodule(module).register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    with torch.no_grad():
        model(**data)
    hook.remove()
    return seen[0][:SEQUENCES][data["attention_mask"][:SEQUENCES].bool()]


def expected(before: nn.Module, after: nn.Module, name: str, data: dict[str, Tensor]) -> dict[str, float]:
    """By plain forward passes in float64, in which one layer has some roles of the changed model."""
    places = ["{}"] if name in OUTPUTS else [place for _, _, place in BY_ID[name].places]
    old, new = copy.deepcopy(before).double(), copy.deepcopy(after).double()
    result = {}
    for part, roles in PARTS.items():
        changes = []
        for place in places:
            for index in range(2):
                mixed = copy.deepcopy(old)
                put(mixed, new, name, place, index, roles)
                reference = output(old, name, place, index, data)
                changes.append((output(mixed, name, place, index, data) - reference).norm() / reference.norm())
        result[part] = float(torch.stack(changes).mean())
    return result


def changed(model: nn.Module, scale: float) -> nn.Module:
    stir(((name, p) for name, p in model.named_parameters() if p.requires_grad), scale)
    return model


def watched(model: nn.Module, data: dict[str, Tensor], **options: Any) -> OutputMeter:
    meter = OutputMeter(model, **options)
    with meter.watching():
        model(**data)
    return meter


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
@pytest.mark.parametrize("name", ["bert", "llama", "t5", *OUTPUTS])
def test_the_change_of_outputs(name: str, method: str) -> None:
    options = fitting(method, rank=3, alpha=5.0, dropout=0.0)
    model = changed(qvtune.adapt(plain(name), roles="qkvo", method=method, **options), 0.1)
    before = qvtune.restore(copy.deepcopy(model))
    data = given(name)
    meter = watched(model, data, layers=20)
    weights = meter.weights()
    assert meter.measure(weights) == dict.fromkeys(PARTS, 0.0)
    changed(model, 0.01)
    found = meter.measure(weights)
    wanted = expected(before, qvtune.restore(model), name, data)
    assert found == pytest.approx(wanted, rel=2e-3)
    assert min(found.values()) > 1e-4


def test_by_hand() -> None:
    """The formula of attention, softmax(q k' / sqrt(d)) v, written out for a layer of BERT."""
    model = qvtune.adapt(build("bert"), roles="qkv", method="full", layers=[0])
    data = batch(3)
    meter = watched(model, data, sequences=3)
    before = copy.deepcopy(model).double()
    weights = meter.weights()
    after = changed(model, 0.02)
    x = before.bert.embeddings(data["input_ids"]).double().detach()

    def attend(query: nn.Module, key: nn.Module, value: nn.Module) -> Tensor:
        def heads(module: nn.Module) -> Tensor:
            return (x @ module.weight.detach().double().T + module.bias.detach().double()).view(3, 8, 4, 8)

        q, k, v = (heads(module).transpose(1, 2) for module in (query, key, value))
        context = (torch.softmax(q @ k.mT / 8**0.5, dim=-1) @ v).transpose(1, 2).reshape(3, 8, 32)
        dense = before.bert.encoder.layer[0].attention.output.dense
        return (context @ dense.weight.T + dense.bias).detach()

    old, new = (m.bert.encoder.layer[0].attention.self for m in (before, after))
    reference = attend(old.query, old.key, old.value)
    outputs = {
        "query": attend(new.query, old.key, old.value), "key": attend(old.query, new.key, old.value),
        "value": attend(old.query, old.key, new.value), "query_key": attend(new.query, new.key, old.value),
    }  # fmt: skip
    wanted = {part: float((out - reference).norm() / reference.norm()) for part, out in outputs.items()}
    assert meter.measure(weights) == pytest.approx(wanted, rel=1e-3)
    both = float((attend(new.query, new.key, new.value) - reference).norm() / reference.norm())
    assert meter.measure(weights, parts={"all": "qkv"}) == pytest.approx({"all": both}, rel=1e-3)
    assert meter.measure(weights, weights) == {"query": 0, "key": 0, "value": 0, "query_key": 0}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("scale", [0.01, 1e-5])
def test_the_fast_path_measures_the_same(scale: float, precision: str) -> None:
    """Also of a last layer that computes its first position alone, and of changes below bfloat16's rounding."""
    model = changed(qvtune.adapt(build("bert"), roles="qkvo", rank=3, alpha=5.0, dropout=0.0), 0.1)
    old, data = qvtune.restore(copy.deepcopy(model)), batch(ROWS)
    new = qvtune.restore(changed(copy.deepcopy(model), scale))
    make_fast(model, precision=precision)
    meter = OutputMeter(model)
    with meter.watching(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        model(**data)
    weights = meter.weights()
    changed(model, scale)
    found = meter.measure(weights)
    old, new = old.double(), new.double()
    data["attention_mask"] = torch.ones_like(data["input_ids"])
    for part, roles in PARTS.items():
        changes = []
        for index, positions in ((0, slice(None)), (1, slice(0, 1))):
            mixed = copy.deepcopy(old)
            put(mixed, new, "bert", BY_ID["bert"].places[0][2], index, roles)
            pair = [output(m, "bert", BY_ID["bert"].places[0][2], index, data) for m in (mixed, old)]
            moved, reference = (out.view(SEQUENCES, 8, -1)[:, positions] for out in pair)
            changes.append((moved - reference).norm() / reference.norm())
        near = 2e-2 if precision == "bf16" or scale < 1e-3 else 2e-3
        assert found[part] == pytest.approx(float(torch.stack(changes).mean()), rel=near), part
        assert found[part] > 0.01 * scale


def test_a_layer_whose_inputs_begin_with_positions() -> None:
    """XLNet's, of which the first few rows are not the first few sequences: the whole batch is measured."""
    torch.manual_seed(0)
    config = XLNetConfig(vocab_size=100, d_model=32, n_layer=1, n_head=4, d_inner=48, num_labels=2, dropout=0.0)
    model = qvtune.adapt(XLNetForSequenceClassification(config).eval(), roles="v", method="full")
    data = batch(ROWS) | {"labels": torch.arange(ROWS) % 2}
    meter = watched(model, data)
    weights = meter.weights()
    changed(model, 0.01)
    found = meter.measure(weights)

    def context(values: dict[str, Tensor]) -> Tensor:
        saved = snapshot(model)
        seen: list[Tensor] = []
        for name, value in values.items():
            model.get_parameter(name).data.copy_(value)
        part = model.transformer.layer[0].rel_attn.get_submodule("o")
        hook = part.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
        with torch.no_grad():
            model(**data)
        hook.remove()
        model.load_state_dict(saved)
        return seen[0].double()

    reference = context(weights)
    wanted = (context({}) - reference).norm() / reference.norm()
    assert found == pytest.approx({"value": float(wanted)}, rel=1e-3)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_measuring_leaves_everything_as_it_was(method: str, fast: bool) -> None:
    model = adapted(method).train()
    if fast:
        make_fast(model, precision="bf16")
    data = inputs("bert")
    state, random = snapshot(model), torch.get_rng_state()
    pointers = {name: value.data_ptr() for name, value in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        plain_loss = model(**data).loss
        after_forward = torch.get_rng_state()
        torch.set_rng_state(random)
        meter = OutputMeter(model)
        with meter.watching():
            loss = model(**data).loss
    assert torch.equal(loss, plain_loss)
    assert torch.equal(torch.get_rng_state(), after_forward)
    before = meter.weights()
    changed(model, 0.01)
    moved = snapshot(model)
    found = meter.measure(before) | {f"step {role}": size for role, size in step_sizes(model, before).items()}
    assert torch.equal(torch.get_rng_state(), after_forward)
    assert [module.training for module in model.modules()] == modes
    assert {name: value.data_ptr() for name, value in model.named_parameters()} == pointers
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in moved.items())
    assert any(not torch.equal(after[name], value) for name, value in state.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in _hooked(model))
    steps = set() if method in ("head", "bitfit") else {"step query", "step value"}
    assert found.keys() == (set() if method == "head" else {"query", "value"}) | steps
    assert all(size > 0 for size in found.values())


def _hooked(model: nn.Module) -> Iterator[nn.Module]:
    return (
        module for module in model.modules() if "Attention" in type(module).__name__ or "dense" in type(module).__name__
    )


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "full", "ia3"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_size_of_a_step(kind: str, method: str) -> None:
    model = changed(adapted(method, kind, roles="qv"), 0.1)
    meter = OutputMeter(model)
    before, old = meter.weights(), qvtune.restore(copy.deepcopy(model))
    found = step_sizes(changed(model, 1e-3), before)
    new = qvtune.restore(model)
    squares: dict[str, Tensor] = {}
    for index in range(2):
        for role, name in (("q", "query"), ("v", "value")):
            pair = [weight(m, kind, index, role) for m in (new, old)]
            both = torch.stack([(pair[0] - pair[1]).square().sum(), pair[1].square().sum()])
            squares[name] = squares.get(name, 0) + both
    assert found == pytest.approx({name: float((c / w).sqrt()) for name, (c, w) in squares.items()}, rel=2e-3)
    assert min(found.values()) > 1e-5


def weight(model: nn.Module, kind: str, index: int, role: str) -> Tensor:
    if kind == "gpt2":
        fused = FUSED_BY_ID["gpt2"]
        return fused.parts(fused.weight(model, index))["qkv".index(role)].double()
    name = {"q": "query", "v": "value"}[role]
    return getattr(model.bert.encoder.layer[index].attention.self, name).weight.detach().double()


def test_few_layers_are_sampled_over_the_model() -> None:
    model = qvtune.adapt(build("bert", num_hidden_layers=9), roles="v")
    names = {name.split(".lora")[0] for name in OutputMeter(model).weights()}
    assert names == {f"bert.encoder.layer.{index}.attention.self.value" for index in (2, 6)}


def test_a_layer_that_cannot_be_called_again_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = qvtune.adapt(build("bert"), roles="v")
    meter = watched(model, batch())
    attention = model.base_model.model.bert.encoder.layer[0].attention
    monkeypatch.setattr(attention.self, "forward", lambda *args, **kwargs: 1 / 0)
    weights = meter.weights()
    stir(((name, p) for name, p in model.named_parameters() if "lora_B" in name), 0.1)
    assert meter.measure(weights)["value"] > 0
    assert {name.split(".")[3] for name in meter.weights()} == {"1"}
