"""What a checkpoint must hold: every weight of the body, whatever wrapped the model that was saved."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny_bert
from torch import Tensor
from transformers import BertForMaskedLM

from qvtune.errors import ModelError
from qvtune.tasks.classification import Classification
from qvtune.training.model import find_model, load_config, load_model, load_tokenizer

TASK = Classification("reviews", ("bad", "good"), "accuracy", "accuracy", ("text",), "label")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_bert(tmp_path / "bert")


def load(folder: Path, *, new_head: bool = False):
    source = find_model(str(folder))
    config = load_config(source)
    return load_model(source, config, TASK, load_tokenizer(source, config), new_head=new_head)


def rename(folder: Path, new: Callable[[str], str | None]) -> dict[str, Tensor]:
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({name: w for old, w in weights.items() if (name := new(old))}, file, metadata={"format": "pt"})
    return weights


def edit(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def inner_wrap(name: str) -> str:
    return name.replace("encoder.", "encoder._orig_mod.").replace("attention.", "_checkpoint_wrapped_module.attention.")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.bert.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"_fsdp_wrapped_module.{name}",
        inner_wrap,
    ],
    ids=["compiled", "parallel", "parallel, compiled, headed", "compiled, parallel", "sharded", "inside"],
)
def test_what_a_wrapper_put_into_the_names_is_taken_out(folder: Path, wrap: Callable[[str], str]) -> None:
    weights = rename(folder, wrap)
    model = load(folder)
    loaded = model.bert.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())
    model.save_pretrained(folder / "again")  # under the plain names
    assert set(load_file(folder / "again" / "model.safetensors")) == set(model.state_dict())


@pytest.mark.parametrize("new_head", [False, True])
@pytest.mark.parametrize(
    ("new", "message"),
    [
        (lambda name: f"foo.{name}", "no weights for 'bert.embeddings.LayerNorm.bias'.* It has 'foo.embeddings"),
        (lambda name: None if name == "embeddings.position_embeddings.weight" else name, "'bert.embeddings.position_"),
        (
            lambda name: None if "layer.1.attention.self.key" in name else name,
            "'bert.encoder.layer.1.attention.self.key",
        ),
        (lambda name: None if "layer.1." in name else name, "config.json says 2 layers, and the checkpoint has 1"),
        (lambda name: None if "layer.0." in name else name, "no weights for 'bert.encoder.layer.0."),
    ],
    ids=["no name fits", "an embedding", "a projection", "the last layer", "the first layer"],
)
def test_a_body_without_weights_is_refused_by_name(
    folder: Path, new: Callable[[str], str | None], message: str, new_head: bool
) -> None:
    rename(folder, new)
    with pytest.raises(ModelError, match=message):
        load(folder, new_head=new_head)


@pytest.mark.parametrize("new_head", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 30}, "'bert.embeddings.word_embeddings.weight' is 27 x 32 in the checkpoint and 30 x 32"),
        ({"intermediate_size": 128}, "'bert.encoder.layer.0.intermediate.dense.bias' is 64 in the .* and 128 in"),
        ({"num_hidden_layers": 4}, "config.json says 4 layers, and the checkpoint has 2"),
    ],
    ids=["vocabulary", "width", "layers"],
)
def test_a_configuration_of_another_body_is_refused(
    folder: Path, change: dict[str, int], message: str, new_head: bool
) -> None:
    edit(folder, **change)
    with pytest.raises(ModelError, match=message) as refusal:
        load(folder, new_head=new_head)
    assert "--new-head" not in str(refusal.value)


def test_a_pooler_may_be_new(folder: Path) -> None:
    BertForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    assert not any("pooler" in name for name in load_file(folder / "model.safetensors"))
    assert load(folder).bert.pooler.dense.weight.isfinite().all()
