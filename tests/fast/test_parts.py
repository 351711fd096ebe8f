"""The parts of the fast path, each off by turns: the model computes the same, and the part alone is missing."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rounding import Exact
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import qvtune
from qvtune.fast.cpu.activation import FastGelu
from qvtune.fast.cpu.pooled import FirstPositionLayer
from qvtune.fast.cpu.residual import ResidualNorm
from qvtune.fast.dropout import FastDropout
from qvtune.fast.fast_path import apply_parts
from qvtune.fast.frozen import FastFrozenLinear
from qvtune.fast.lora import FastLora
from qvtune.fast.parts import PARTS

OF_THE_MODEL = [part.name for part in PARTS if part.by == "model"]


def has(kind: type) -> Callable[[nn.Module], bool]:
    return lambda model: any(isinstance(module, kind) for module in model.modules())


# How it shows, on a model, that a part of it is on.
SIGNS: dict[str, Callable[[nn.Module], bool]] = {
    "dropout": has(FastDropout),
    "LoRA": has(FastLora),
    "activations": has(FastGelu),
    "packed weights": has(FastFrozenLinear),
    "attention": lambda model: model.config._attn_implementation == "qvtune",
    "last layer": has(FirstPositionLayer),
    "residual blocks": has(ResidualNorm),
    "bfloat16 weights": lambda model: any(p.dtype == torch.bfloat16 for p in model.parameters()),
}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(**sizes, vocab_size=100, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = qvtune.adapt(BertForSequenceClassification(config), roles="qv", dropout=0.0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    return model.train()


def loss_and_gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    ids = torch.randint(3, 100, (4, 12), generator=torch.Generator().manual_seed(1))
    loss = model(input_ids=ids, labels=torch.tensor([0, 1, 0, 1])).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("without", OF_THE_MODEL)
def test_a_part_is_left_out_and_what_needs_it(without: str) -> None:
    model = apply_parts(make_model(), precision="bf16", without={without})
    off = {part.name for part in PARTS if without in (part.name, part.needs)}
    assert {name for name in OF_THE_MODEL if SIGNS[name](model)} == set(OF_THE_MODEL) - off
    qvtune.undo_fast(model)
    assert not any(sign(model) for sign in SIGNS.values())


@pytest.mark.parametrize("without", OF_THE_MODEL)
def test_without_a_part_the_numbers_are_the_same(without: str, either: str) -> None:
    plain = make_model()
    fast = apply_parts(copy.deepcopy(plain), precision="fp32", without={without})
    twin = copy.deepcopy(plain).double()
    Exact.of(lambda: loss_and_gradients(twin)).accept(loss_and_gradients(fast), loss_and_gradients(plain))


def test_a_part_that_there_is_not_is_not_left_out() -> None:
    with pytest.raises(AssertionError, match="dropouts"):
        apply_parts(make_model(), precision="fp32", without={"dropouts"})


def test_every_part_is_in_the_docs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "fast.md").read_text(encoding="utf-8")
    listed = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")]
    assert [part.name for part in PARTS if part.name not in listed] == []
