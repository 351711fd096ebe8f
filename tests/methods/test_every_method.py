"""What holds for every method: what trains, at which rate, and what is left when it is saved, loaded and undone."""

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from methods_table import IN_PEFT, IN_PEFT_FUSED, NAMES, SAVED_WHOLE, TRAINED, adapted, base, inputs, logits, stirred
from models import assert_same_state, build, snapshot
from rounding import Exact, assert_near
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qvtune.adaptation import count_parameters, restore
from qvtune.adapters import load_adapter, loads_in_peft, save_adapter
from qvtune.errors import AdaptError, ModelError, RateError
from qvtune.fast.fast_path import make_fast, undo_fast
from qvtune.groups import param_groups
from qvtune.methods.adalora import allocate
from qvtune.methods.adapted import adaptation_of
from qvtune.methods.galore import galore_adamw
from qvtune.methods.table import METHODS
from qvtune.roles.unwrap import unwrap

BASES = ("bert", "gpt2")
ADAPTERS = [name for name in NAMES if name not in SAVED_WHOLE]
every_method = pytest.mark.parametrize("method", NAMES)
every_adapter = pytest.mark.parametrize("method", ADAPTERS)
on_both = pytest.mark.parametrize("name", BASES)

# Run once for all methods by a fresh interpreter, which must not import qvtune.
PLAIN = """
import json, sys, torch, transformers
from peft import PeftModel
logits = {}
for case, architecture, base, adapter, tokens in json.loads(sys.stdin.read()):
    model = getattr(transformers, architecture).from_pretrained(base)
    model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        logits[case] = model(input_ids=torch.tensor(tokens)).logits.tolist()
assert "qvtune" not in sys.modules
print(json.dumps(logits))
"""


def step(model: torch.nn.Module, name: str, times: int = 3, **rates: float) -> list[float]:
    """Train as a loop of one's own does, and return the losses."""
    groups = param_groups(model, **{"lr": 1e-2, **rates})
    method = adaptation_of(model).method
    optimizer = galore_adamw(groups) if method == "galore" else torch.optim.AdamW(groups)
    losses = []
    model.eval()  # without dropout, so that a loss can be compared with the one before
    for index in range(times):
        loss = model(**inputs(name)).loss
        loss.backward()
        optimizer.step()
        if METHODS[method].steps:
            allocate(model, index + 1)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_the_table_is_complete() -> None:
    assert set(TRAINED) == set(NAMES)
    assert all(method.summary and method.lr > 0 for method in METHODS.values())


@on_both
@every_method
def test_it_trains_exactly_what_it_says(method: str, name: str) -> None:
    model = adapted(method, name)
    inner = unwrap(model)
    places = (
        [f"bert.encoder.layer.{i}.attention.self.{role}" for i in (0, 1) for role in ("query", "value")]
        if name == "bert"
        else [f"transformer.h.{i}.attn.c_attn.{role}" for i in (0, 1) for role in ("query", "value")]
    )
    by_peft = METHODS[method].config is not None
    head = {"bert": {"classifier.weight", "classifier.bias"}, "gpt2": {"score.weight"}}[name]
    middle = ".modules_to_save.default." if by_peft else "."
    expected = {middle.join(parameter.split(".")) for parameter in head}
    expected |= {f"{place}.{parameter}" for place in places for parameter in TRAINED[method]}
    assert {n for n, p in inner.named_parameters() if p.requires_grad} == expected
    before = {n: p.detach().clone() for n, p in inner.named_parameters()}
    losses = step(model, name)
    changed = {n for n, p in inner.named_parameters() if not torch.equal(p, before[n])}
    assert changed == expected
    assert losses[-1] < losses[0]


@on_both
@every_method
def test_a_checkpoint_loses_no_strides(method: str, name: str) -> None:
    """Products with a matrix that lies otherwise in memory round otherwise, and files hold no strides."""
    model = adapted(method, name)
    groups = param_groups(model, lr=1e-2)
    optimizer = galore_adamw(groups) if method == "galore" else torch.optim.AdamW(groups)
    model(**inputs(name)).loss.backward()
    optimizer.step()
    kept = [p.detach() for p in model.parameters() if p.requires_grad]
    kept += [value for state in optimizer.state_dict()["state"].values() for value in state.values()]
    assert all(tensor.is_contiguous() for tensor in kept if isinstance(tensor, Tensor))


@on_both
@every_method
def test_groups_are_the_roles_and_their_rates(method: str, name: str) -> None:
    model = adapted(method, name)
    ratio = {"lr_ratio": 4.0} if METHODS[method].has_roles else {}
    groups = param_groups(model, lr=1e-3, head_lr=5e-3, weight_decay=0.1, **ratio)
    rates = {"query": 1e-3, "value": 4e-3, "head": 5e-3}
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    for group in groups:
        owner = group["name"].removesuffix("_no_decay")
        assert group["lr"] == pytest.approx(rates[owner.removesuffix("_b")] * (16 if owner.endswith("_b") else 1))
        assert group["weight_decay"] == (0.0 if "no_decay" in group["name"] else 0.1)
        for parameter in group["param_names"]:
            place = "head" if parameter.startswith(("classifier", "score")) else owner.removesuffix("_b")
            assert place in owner
            assert place == "head" or f".{place}." in parameter
    counts = count_parameters(model)
    sizes = {role: sum(p.numel() for g in groups if g["name"].startswith(role) for p in g["params"]) for role in rates}
    assert counts.by_role == {role: sizes[role] for role in ("query", "value") if METHODS[method].has_roles}
    assert (counts.head, counts.trainable) == (sizes["head"], sum(sizes.values()))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """Every adapter, our outputs, and plain PEFT's where it loads them."""
    place = tmp_path_factory.mktemp("methods")
    ours, cases = {}, []
    for name in BASES:
        base(name).save_pretrained(place / name)
        for method in ADAPTERS:
            model = stirred(method, name, **({"roles": "qvo"} if METHODS[method].has_roles else {}))
            case = f"{method}-{name}"
            ours[case] = logits(model, name)
            save_adapter(model, place / case)
            assert torch.equal(logits(model, name), ours[case])  # saving changes nothing
            assert loads_in_peft(model) == (method in (IN_PEFT if name == "bert" else IN_PEFT_FUSED))
            if loads_in_peft(model):
                architecture, ids = type(base(name)).__name__, inputs(name)["input_ids"].tolist()
                cases.append((case, architecture, str(place / name), str(place / case), ids))
    done = subprocess.run(
        [sys.executable, "-c", PLAIN], input=json.dumps(cases), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return place, ours, {case: torch.tensor(found) for case, found in json.loads(done.stdout).items()}


@on_both
@every_adapter
def test_a_saved_adapter_gives_the_same(method: str, name: str, saved: tuple) -> None:
    place, ours, theirs = saved
    case = f"{method}-{name}"
    assert (ours[case] - logits(base(name), name)).abs().max() > 1e-3
    back = load_adapter(base(name), place / case).eval()
    assert adaptation_of(back).method == method
    assert_near(logits(back, name), ours[case])
    assert (case in theirs) == (method in (IN_PEFT if name == "bert" else IN_PEFT_FUSED))
    if case in theirs:
        assert_near(theirs[case], ours[case])
    else:
        assert "Plain PEFT cannot load this" in (place / case / "README.md").read_text()
    merged = restore(back).eval()
    assert type(merged) is type(base(name))
    assert_near(logits(merged, name), ours[case])


@on_both
@every_adapter
def test_a_loaded_adapter_trains_on(method: str, name: str, saved: tuple) -> None:
    back = load_adapter(base(name), saved[0] / f"{method}-{name}").eval()
    before = logits(back.eval(), name)
    losses = []
    optimizer = torch.optim.AdamW(param_groups(back, lr=1e-3))
    for _ in range(3):
        loss = back(**inputs(name)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not torch.equal(logits(back.eval(), name), before)


@on_both
@every_method
def test_restore_merges_or_gives_the_weights_back(method: str, name: str) -> None:
    roles = {"roles": "qvo"} if METHODS[method].has_roles else {}
    model = stirred(method, name, **roles)
    expected = logits(model, name)
    merged = restore(copy.deepcopy(model)).eval()
    assert_near(logits(merged, name), expected)
    assert list(merged.state_dict()) == list(base(name).state_dict())
    if method in SAVED_WHOLE:
        return
    before = {n: value for n, value in snapshot(base(name)).items() if not n.startswith(("classifier", "score"))}
    plain = restore(model, merge=False)
    plain_state = plain.state_dict()
    assert [n for n in before if not torch.equal(plain_state[n], before[n])] == []
    assert all(p.requires_grad for p in plain.parameters())


@every_adapter
def test_a_head_of_several_layers_stays(method: str, tmp_path: Path) -> None:
    def logits_of(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=inputs("bert")["input_ids"]).logits

    model = stirred(method, model=build("roberta"))
    expected = logits_of(model)
    save_adapter(model, tmp_path)
    assert_near(logits_of(load_adapter(build("roberta"), tmp_path).eval()), expected)
    head = copy.deepcopy(unwrap(model).classifier)
    trained = [p for p in head.parameters() if p.requires_grad]
    plain = restore(copy.deepcopy(model), merge=False)
    assert all(torch.equal(p, q) for p, q in zip(trained, plain.classifier.parameters(), strict=True))
    merged = restore(model)
    assert_near(logits_of(merged.eval()), expected)
    assert list(merged.state_dict()) == list(build("roberta").state_dict())


@every_method
def test_it_can_be_undone_and_done_again(method: str) -> None:
    model = base("bert")
    before = snapshot(model)
    plain = restore(adapted(method, model=model), merge=False)
    assert_same_state(before, plain)
    again = stirred(method, model=plain)
    assert torch.equal(logits(again), logits(stirred(method)))


@on_both
@every_method
def test_the_fast_path_computes_the_same(method: str, name: str) -> None:
    model = stirred(method, name)
    fast = make_fast(copy.deepcopy(model))
    exact = copy.deepcopy(model).double()

    def loss_and_gradients(model: nn.Module) -> dict[str, Tensor]:
        model.zero_grad()
        loss = model(**inputs(name)).loss
        loss.backward()
        gradients = {n: p.grad for n, p in unwrap(model).named_parameters() if p.requires_grad}
        return {"loss": loss.detach()} | gradients

    Exact.of(lambda: loss_and_gradients(exact)).accept(loss_and_gradients(fast), loss_and_gradients(model))
    assert_near(logits(undo_fast(fast).eval(), name), logits(model.eval(), name))


@every_method
def test_the_fast_path_in_bfloat16_gives_gradients(method: str) -> None:
    model = make_fast(stirred(method).train(), precision="bf16")
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs("bert")).loss
    loss.backward()
    plain = stirred(method).train()
    plain(**inputs("bert")).loss.backward()
    wanted = {n: p.grad for n, p in unwrap(plain).named_parameters() if p.requires_grad}
    for parameter, tensor in unwrap(model).named_parameters():
        if parameter in wanted:
            scale = wanted[parameter].abs().max()
            assert (tensor.grad - wanted[parameter]).abs().max() < 0.15 * scale + 1e-3, parameter


@every_method
def test_options_that_mean_nothing_are_refused(method: str) -> None:
    entry = METHODS[method]
    before = snapshot(base("bert"))
    model = base("bert")
    for option, value in (("rank", 2), ("alpha", 2.0), ("dropout", 0.1), ("density", 0.1)):
        if option not in entry.defaults:
            with pytest.raises(AdaptError, match=f"{option} is {value}, and method '{method}' has no {option}"):
                adapted(method, model=model, **{option: value})
    if not entry.has_roles:
        with pytest.raises(AdaptError, match="roles is 'q', and method 'head' has no roles"):
            adapted(method, model=model, roles="q")
    assert_same_state(before, model)
    model = adapted(method, model=model)
    if entry.b_lr_ratio is None:
        with pytest.raises(RateError, match=f"method '{method}' has no factors A and B"):
            param_groups(model, lr=1e-3, b_lr_ratio=2.0)
    if not entry.has_roles:
        with pytest.raises(RateError, match="trains no role"):
            param_groups(model, lr=1e-3, lr_ratio=2.0)


@every_method
def test_the_same_seed_gives_the_same_start(method: str) -> None:
    first, second = (unwrap(adapted(method)).state_dict() for _ in range(2))
    assert [n for n in first if not torch.equal(first[n], second[n])] == []


@on_both
@every_adapter
def test_an_adapter_that_lacks_a_tensor_is_refused(method: str, name: str, saved: tuple, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved[0] / f"{method}-{name}", tmp_path / "adapter"))
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    model = base(name)
    before = snapshot(model)
    for lost in weights:
        save_file({n: tensor for n, tensor in weights.items() if n != lost}, file, metadata={"format": "pt"})
        module = lost.removeprefix("base_model.model.").partition(".lora_")[0]
        with pytest.raises(ModelError, match=f"^{re.escape(str(folder))}: .*'.*{re.escape(module)}.*'"):
            load_adapter(model, folder)
        assert adaptation_of(model) is None
        assert_same_state(before, model)
        assert all(p.requires_grad for p in model.parameters())
    save_file(weights, file, metadata={"format": "pt"})
    assert_near(logits(load_adapter(model, folder).eval(), name), saved[1][f"{method}-{name}"])
