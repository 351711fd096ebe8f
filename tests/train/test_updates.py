"""How far the roles have moved, against merged weights in float64."""

import copy
import math

import pytest
import torch
from models import build, stir, stir_lora
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification

import qvtune
from qvtune.train.fast.accelerate import accelerate
from qvtune.train.updates import SAMPLED_LAYERS, UpdateMeter

SHORT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "vocab_size": 100, "pad_token_id": 0}

NAMES = {"q": "query", "k": "key", "v": "value"}


def weights(model: nn.Module, layer: int, kind: str) -> dict[str, Tensor]:
    """The query, key and value weights of a layer in float64, (outputs, inputs)."""
    if kind == "gpt2":
        fused = model.transformer.h[layer].attn.c_attn.weight.double().T
        return dict(zip("qkv", fused.detach().chunk(3), strict=True))
    attention = model.bert.encoder.layer[layer].attention.self
    return {role: getattr(attention, name).weight.detach().double() for role, name in NAMES.items()}


def expected(before: nn.Module, after: nn.Module, layers: list[int], kind: str, roles: str) -> dict[str, float]:
    result = {}
    for role in roles:
        pairs = [(weights(before, layer, kind)[role], weights(after, layer, kind)[role]) for layer in layers]
        moved = sum(float((new - old).square().sum()) for old, new in pairs)
        result[NAMES[role]] = math.sqrt(moved / sum(float(old.square().sum()) for old, _ in pairs))
    return result


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_size_of_an_update(kind: str, method: str, fast: bool) -> None:
    before = build("bert") if kind == "bert" else GPT2ForSequenceClassification(GPT2Config(**SHORT)).eval()
    model = qvtune.adapt(copy.deepcopy(before), roles="qv", method=method, dropout=0.5, **_lora(method))
    if fast:
        model = accelerate(model)
    meter = UpdateMeter(model)
    assert meter.measure() == {"query": 0.0, "value": 0.0}
    if method == "lora":
        stir_lora(model)
    else:
        stir((name, p) for name, p in model.named_parameters() if p.requires_grad)
    was_training = model.training
    found = meter.measure()
    assert model.training == was_training
    layers = list(range(before.config.num_hidden_layers))
    assert found == pytest.approx(expected(before, qvtune.restore(model), layers, kind, "qv"), rel=1e-4)
    assert found["query"] > 0.01


def _lora(method: str) -> dict:
    return {"rank": 3, "alpha": 7} if method == "lora" else {}


def test_measuring_draws_no_random_numbers() -> None:
    model = qvtune.adapt(build("bert"), method="full")
    state = torch.get_rng_state()
    UpdateMeter(model).measure()
    assert torch.equal(torch.get_rng_state(), state)


def test_copies_are_kept_of_few_layers() -> None:
    before = build("bert", num_hidden_layers=9)
    model = qvtune.adapt(copy.deepcopy(before), roles="v", method="full")
    meter = UpdateMeter(model)
    assert len(meter._first) == SAMPLED_LAYERS
    stir((name, p) for name, p in model.named_parameters() if p.requires_grad)
    found = meter.measure()
    assert found == pytest.approx(expected(before, qvtune.restore(model), [0, 3, 5, 8], "bert", "v"), rel=1e-4)
