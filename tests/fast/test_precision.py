"""Frozen weights in bfloat16: nothing of the originals is lost."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

import qvtune
from qvtune.errors import ConfigError
from qvtune.fast.precision import narrow, resolve_precision, widen


def make_model(method: str = "full") -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=100
    )
    return qvtune.adapt(BertForMaskedLM(config), roles="qv", method=method, head=[])


@pytest.mark.parametrize("method", ["lora", "full"])
def test_state_dict_holds_the_originals(method: str) -> None:
    model = make_model(method)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    narrow(model)
    for name, parameter in model.named_parameters():
        is_kept = parameter.requires_grad or "LayerNorm" in name
        assert parameter.dtype == (torch.float32 if is_kept else torch.bfloat16), name
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    widen(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_tied_weights_stay_tied() -> None:
    model = make_model()
    narrow(model)
    embedding, decoder = model.bert.embeddings.word_embeddings, model.cls.predictions.decoder
    assert embedding.weight is decoder.weight
    widen(model)
    assert embedding.weight is decoder.weight
    assert embedding.weight.dtype == torch.float32


def test_a_change_made_meanwhile_is_kept() -> None:
    model = make_model()
    narrow(model)
    key = model.bert.encoder.layer[0].attention.self.key
    key.weight.data.add_(1)
    changed = key.weight.detach().clone()
    name = "bert.encoder.layer.0.attention.self.key.weight"
    assert torch.equal(model.state_dict()[name], changed)
    widen(model)
    assert torch.equal(key.weight, changed.float())


def test_fp16_needs_a_gpu() -> None:
    assert resolve_precision("fp16", torch.device("cuda")) == "fp16"
    for kind in ("cpu", "mps"):
        with pytest.raises(ConfigError, match="needs a GPU"):
            resolve_precision("fp16", torch.device(kind))
    assert resolve_precision("auto", torch.device("cpu")) in ("bf16", "fp32")
