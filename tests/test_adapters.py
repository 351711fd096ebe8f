"""Adapters saved by qvtune, loaded by plain PEFT and by qvtune again."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fused import FUSED, FUSED_BY_ID, Fused, fused_cases, tokens
from models import assert_same_state, build, snapshot
from peft import LoraConfig, get_peft_model
from rounding import assert_near

from qvtune.adaptation import adapt, restore
from qvtune.adapters import load_adapter, save_adapter
from qvtune.errors import AdaptError, ModelError
from qvtune.groups import param_groups
from qvtune.methods.adapted import adaptation_of
from qvtune.roles.find import find_attention

ROLES = ("qv", "k", "qkvo", "vo")

# Run once for all families by a fresh interpreter, which must not import qvtune.
PLAIN = """
import json, sys, torch, transformers
from peft import PeftModel
logits = {}
for case, architecture, base, adapter, tokens in json.loads(sys.stdin.read()):
    model = getattr(transformers, architecture).from_pretrained(base)
    model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        logits[case] = model(torch.tensor(tokens))[0].tolist()
assert "qvtune" not in sys.modules
print(json.dumps(logits))
"""


def adapted_model(family: Fused, roles: str, **options):
    torch.manual_seed(2)
    model = adapt(family.build(), roles=roles, rank=3, alpha=5, **options)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def outputs(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokens())[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """Adapters of every family and choice of roles, our outputs, and plain PEFT's."""
    place = tmp_path_factory.mktemp("adapters")
    ours, cases = {}, []
    for family in FUSED:
        family.build().save_pretrained(place / family.id)
        for roles in ROLES:
            case = f"{family.id}-{roles}"
            model = adapted_model(family, roles)
            ours[case] = outputs(model)
            save_adapter(model, place / case)
            cases.append(
                (case, family.architecture, str(place / family.id), str(place / case), tokens()["input_ids"].tolist())
            )
    done = subprocess.run(
        [sys.executable, "-c", PLAIN], input=json.dumps(cases), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return place, ours, {case: torch.tensor(logits) for case, logits in json.loads(done.stdout).items()}


@fused_cases()
@pytest.mark.parametrize("roles", ROLES)
def test_plain_peft_computes_the_same(family: Fused, roles: str, saved: tuple) -> None:
    _, ours, theirs = saved
    case = f"{family.id}-{roles}"
    assert (ours[case] - outputs(family.build())).abs().max() > 1e-3
    assert_near(ours[case], theirs[case])


@fused_cases()
@pytest.mark.parametrize("roles", ROLES)
def test_it_loads_back_as_it_was_and_trains_on(family: Fused, roles: str, saved: tuple) -> None:
    place, ours, _ = saved
    made = adapted_model(family, roles)
    back = load_adapter(family.build(), place / f"{family.id}-{roles}").eval()
    assert torch.equal(outputs(back), ours[f"{family.id}-{roles}"])
    assert adaptation_of(back) == adaptation_of(made)
    wanted = {name: p.detach() for name, p in made.named_parameters() if p.requires_grad}
    found = {name: p.detach().clone() for name, p in back.named_parameters() if p.requires_grad}
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    back.train()(**tokens())[0].pow(2).sum().backward()
    torch.optim.SGD(param_groups(back, lr=1e-3), lr=1.0).step()
    assert any(not torch.equal(p, found[name]) for name, p in back.named_parameters() if name in found)


@fused_cases("gpt2", "falcon-new", "deepseek-v3")
def test_adapter_on_a_fused_module_is_block_wise(family: Fused, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_adapter(adapted_model(family, "v"), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 5)
    second = load_file(tmp_path / "adapter_model.safetensors")
    name = f"base_model.model.{family.module.format(0)}.lora_B.weight"
    _, _, value = family.parts(second[name])
    assert value.any()
    assert second[name].count_nonzero() == value.count_nonzero()


def test_rank_and_alpha_of_a_fused_module_beside_a_separate_one(tmp_path: Path) -> None:
    save_adapter(adapted_model(FUSED_BY_ID["gpt2"], "qvo"), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 5)
    assert config["rank_pattern"] == {f"transformer.h.{i}.attn.c_attn": 6 for i in (0, 1)}
    assert config["alpha_pattern"] == {f"transformer.h.{i}.attn.c_attn": 10 for i in (0, 1)}


def test_separate_projections_save_as_peft_saves_them(tmp_path: Path) -> None:
    model = adapt(build("bert"), roles="qv", rank=4)
    save_adapter(model, tmp_path / "ours")
    model.save_pretrained(str(tmp_path / "theirs"), save_embedding_layers=False)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_restore_after_loading_merges(tmp_path: Path) -> None:
    family = FUSED_BY_ID["gpt-neox"]
    model = adapted_model(family, "qv")
    expected = outputs(model)
    save_adapter(model, tmp_path)
    merged = restore(load_adapter(family.build(), tmp_path)).eval()
    assert type(merged.get_submodule(family.module.format(0))) is torch.nn.Linear
    assert_near(outputs(merged), expected)


def test_what_has_no_lora_cannot_be_saved_as_an_adapter(tmp_path: Path) -> None:
    for model in (build("bert"), adapt(build("bert"), method="full"), get_peft_model(build("bert"), LoraConfig())):
        with pytest.raises(AdaptError, match="has an adapter to save"):
            save_adapter(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_adapter_of_another_model_is_refused_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    save_adapter(adapted_model(FUSED_BY_ID["gpt2"], "qv"), tmp_path)
    model = FUSED_BY_ID["gpt-neox"].build()
    before = snapshot(model)
    with pytest.raises(
        ModelError, match="made for gpt2 with 2 attention layers of 32 to 32, and the model has no 'tran"
    ):
        load_adapter(model, tmp_path)
    assert_same_state(before, model)


@pytest.mark.parametrize(
    ("file", "text"), [("qvtune.json", "no adapter saved by qvtune"), ("adapter_model.safetensors", "cannot be read")]
)
def test_missing_file(file: str, text: str, tmp_path: Path) -> None:
    family = FUSED_BY_ID["gpt2"]
    save_adapter(adapted_model(family, "qv"), tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ModelError, match=text):
        load_adapter(family.build(), tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "falcon-new", "modernbert", "qwen3-next"])
def test_a_split_model_saves_and_loads_in_its_original_shape(name: str, tmp_path: Path) -> None:
    family = FUSED_BY_ID[name]
    model = adapt(family.build(), roles="qv", method="full", head=[])
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    loaded, told = type(family.build()).from_pretrained(tmp_path, output_loading_info=True)
    assert (told["missing_keys"], told["unexpected_keys"]) == (set(), set())
    assert torch.equal(outputs(loaded.eval()), outputs(restore(copy.deepcopy(model)).eval()))
    other = adapt(family.build(), roles="k", method="full", head=[])
    other.load_state_dict(loaded.state_dict())
    assert torch.equal(outputs(other.eval()), outputs(model.eval()))


def test_adapters_taken_off_by_peft_alone_leave_a_model_that_can_be_restored() -> None:
    model = FUSED_BY_ID["gpt2"].build()
    before = snapshot(model)
    bare = adapt(model, roles="qv", head=[]).unload()
    with pytest.raises(AdaptError, match=r"Call qvtune\.restore"):
        adapt(bare)
    assert_same_state(before, restore(bare))


@pytest.mark.parametrize("change", [{"n_layer": 3}, {"n_head": 2}, {"num_labels": 5}])
def test_an_adapter_of_other_layers_heads_or_labels_is_refused(change: dict, tmp_path: Path) -> None:
    family = FUSED_BY_ID["gpt2"]
    save_adapter(adapted_model(family, "qv"), tmp_path)
    model = type(family.build())(type(family.build().config)(**{**family.options, **change}))
    before = snapshot(model)
    with pytest.raises(ModelError, match="the adapter does not fit the model"):
        load_adapter(model, tmp_path)
    assert_same_state(before, model)
    with pytest.raises(AdaptError, match=r"adapted already. Call qvtune\.restore"):
        load_adapter(adapt(family.build()), tmp_path)


def test_a_map_of_another_model_is_refused() -> None:
    for other in ("phi3", "falcon-new"):
        model = FUSED_BY_ID["gpt2"].build()
        before = snapshot(model)
        with pytest.raises(AdaptError, match="the attention map is of another model: this one has no"):
            adapt(model, attention=find_attention(FUSED_BY_ID[other].build()))
        assert_same_state(before, model)


def test_the_trainer_saves_an_adapter_that_loads(tmp_path: Path) -> None:
    import qvtune

    family = FUSED_BY_ID["gpt2"]
    rows = [{"input_ids": [5, 6, 7], "labels": index % 2} for index in range(8)]
    arguments = qvtune.TrainingArguments(
        output_dir=str(tmp_path / "out"), roles="qv", rank=3, max_steps=2, report_to="none", use_cpu=True
    )
    trainer = qvtune.Trainer(family.build(), arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    back = load_adapter(family.build(), tmp_path / "final").eval()
    assert torch.equal(outputs(back), outputs(qvtune.undo_fast(trainer.model).eval()))
