"""Theorem 1's bound: written out with numbers, and beside what PEFT makes trainable."""

import json
import math

import pytest
import torch
from models import BY_ID, build
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    LongformerConfig,
    LongformerModel,
    RobertaConfig,
    RobertaModel,
)

from qvtune import adapt, count_parameters, find_attention, generalization_bound
from qvtune.errors import AdaptError, ConfigError, QVTuneError, RoleError
from qvtune.methods.table import METHODS
from qvtune.roles.attention import AttentionMap


def attention_of(model_class: type, config: object) -> AttentionMap:
    with torch.device("meta"):
        model = model_class(config)
    return find_attention(model, verify=False)


@pytest.fixture(scope="module")
def roberta() -> AttentionMap:
    return attention_of(RobertaModel, RobertaConfig(vocab_size=50265))


@pytest.fixture(scope="module")
def gpt2() -> AttentionMap:
    return attention_of(GPT2Model, GPT2Config())


@pytest.fixture(scope="module")
def llama() -> AttentionMap:
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=14336,
    )
    return attention_of(LlamaModel, config)


@pytest.fixture(scope="module")
def tiny() -> AttentionMap:
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=9)
    return attention_of(BertModel, config)


def test_roberta_base_by_hand(roberta: AttentionMap) -> None:
    # 12 layers of 768 x 768, as Theorem 1 writes it: 4 R² for query and value, 6 R² for all three.
    qv = generalization_bound(roberta, roles="qv", rank=8, examples=2490, bits=32, sub_gaussian=1.5)
    assert qv.bound == pytest.approx(math.sqrt(4 * 1.5**2 / 2490 * 32 * 8 * 12 * (768 + 768)), rel=1e-14)
    qkv = generalization_bound(roberta, roles="qkv", rank=8, examples=2490, bits=32, sub_gaussian=1.5)
    assert qkv.bound == pytest.approx(math.sqrt(6 * 1.5**2 / 2490 * 32 * 8 * 12 * (768 + 768)), rel=1e-14)
    assert qv.ratio == qkv.ratio == math.sqrt(2 / 3)
    assert qv.bound / qkv.bound == pytest.approx(math.sqrt(2 / 3), rel=1e-15)
    assert qv.numbers == 294_912


def test_fused_gpt2_by_hand(gpt2: AttentionMap) -> None:
    bound = generalization_bound(gpt2, roles="kv", rank=4, examples=500, bits=16)
    assert bound.bound == pytest.approx(math.sqrt(2 / 500 * 16 * 24 * 4 * (768 + 768)), rel=1e-14)
    assert bound.ratio == math.sqrt(2 / 3)
    assert {(term.module, term.rows, term.inputs) for term in bound.terms[:2]} == {("h.0.attn.c_attn", 768, 768)}


def test_grouped_query_llama_by_hand(llama: AttentionMap) -> None:
    # q is 4096 x 4096; k and v are 1024 x 4096.
    qv = generalization_bound(llama, roles="qv", rank=16, examples=392_702, bits=32)
    numbers = 32 * 16 * ((4096 + 4096) + (4096 + 1024))
    assert qv.numbers == numbers
    assert qv.bound == pytest.approx(math.sqrt(2 / 392_702 * 32 * numbers), rel=1e-14)
    assert qv.ratio == pytest.approx(math.sqrt(13 / 18), rel=1e-15)
    assert qv.ratio != pytest.approx(math.sqrt(2 / 3), rel=1e-2)
    parts = qv.by_role()
    assert parts["query"].share == 8 / 13
    assert parts["value"].share == 5 / 13
    alone = generalization_bound(llama, roles="v", rank=16, examples=392_702, bits=32)
    assert parts["value"].bound == pytest.approx(alone.bound, rel=1e-14)


def test_full_training_counts_whole_matrices(llama: AttentionMap, roberta: AttentionMap) -> None:
    full = generalization_bound(llama, roles="qkv", method="full", layers=[0, -1], examples=100)
    assert full.numbers == 2 * (4096 * 4096 + 2 * 1024 * 4096)
    assert full.bound == pytest.approx(math.sqrt(2 / 100 * 32 * full.numbers), rel=1e-14)
    assert full.rank is None
    assert full.ratio == pytest.approx(math.sqrt(20 / 24), rel=1e-15)
    assert {term.index for term in full.terms} == {0, 31}
    assert generalization_bound(roberta, method="full", examples=100).numbers == 24 * 768 * 768


@pytest.mark.parametrize("name", BY_ID)
@pytest.mark.parametrize("roles", ["qv", "qkvo"])
def test_numbers_are_those_that_peft_trains(name: str, roles: str) -> None:
    # Among these: a module that is called for three layers (ALBERT), and cross-attention (T5, BART).
    model = build(name)
    bound = generalization_bound(find_attention(model, verify=False), roles=roles, rank=2, examples=100)
    counts = count_parameters(adapt(model, roles=roles, rank=2))
    assert {role: part.numbers for role, part in bound.by_role().items()} == counts.by_role
    assert bound.numbers == counts.adapter


def test_several_projections_of_a_role_all_count() -> None:
    # Longformer's tokens with global attention have a query, key and value of their own.
    config = LongformerConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    bound = generalization_bound(attention_of(LongformerModel, config), roles="v", rank=4, examples=100)
    assert len(bound.terms) == 4
    assert bound.numbers == 4 * 4 * (32 + 32)


def test_halves_with_four_times_the_examples_and_doubles_with_rank_and_bits(tiny: AttentionMap) -> None:
    def at(**changes: float) -> float:
        return generalization_bound(tiny, **{"rank": 2, "examples": 997, "bits": 8} | changes).bound

    assert at(examples=4 * 997) == at() / 2
    assert at(rank=8) == 2 * at()
    assert at(bits=32) == 2 * at()
    assert at(sub_gaussian=3.0) == pytest.approx(3 * at(), rel=1e-15)
    assert at(examples=998) < at() < at(rank=3) < at(rank=4)


def test_terms_add_up_and_pass_through_json(tiny: AttentionMap) -> None:
    bound = generalization_bound(tiny, roles="qkv", rank=4, layers=[1], examples=100, bits=16, sub_gaussian=2)
    assert sum(term.share for term in bound.terms) == pytest.approx(1, rel=1e-15)
    assert [(term.layer, term.index, term.role) for term in bound.terms] == [
        ("encoder.layer.1.attention", 1, role) for role in ("query", "key", "value")
    ]
    record = json.loads(json.dumps(bound.to_dict()))
    assert record["by_role"]["key"] == {
        "numbers": 256,
        "share": pytest.approx(1 / 3),
        "bound": pytest.approx(math.sqrt(2 * 4 / 100 * 16 * 256)),
    }
    assert (record["roles"], record["method"], record["rank"], record["layers"]) == ("qkv", "lora", 4, [1])
    assert record["bound"] == bound.bound


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rank": 0}, AdaptError, "rank is 0; it must be at least 1, and whole"),
        ({"rank": 33}, AdaptError, "is 32 x 32: factors of rank 32 reach every change of it"),
        ({"rank": 4, "method": "full"}, AdaptError, "rank is 4, and method 'full' has no rank"),
        ({"examples": 0}, ConfigError, "examples is 0; it must be at least 1, and whole"),
        ({"examples": 2.5}, ConfigError, "examples is 2.5; it must be at least 1"),
        ({"examples": True}, ConfigError, "examples is True"),
        ({"bits": -1}, ConfigError, "bits is -1"),
        ({"sub_gaussian": 0.0}, ConfigError, "sub_gaussian is 0.0; it must be a number above 0, and finite"),
        ({"sub_gaussian": math.inf}, ConfigError, "sub_gaussian is inf"),
        ({"sub_gaussian": math.nan}, ConfigError, "sub_gaussian is nan"),
        ({"sub_gaussian": "1"}, ConfigError, "sub_gaussian is '1'"),
        ({"roles": "qx"}, RoleError, "unknown role 'x'"),
        ({"layers": [2]}, RoleError, "layer 2 does not exist: this model has 2 attention layers"),
        ({"layers": []}, RoleError, "no layer was named"),
        ({"layers": "0"}, AdaptError, "layers is '0'; it must be a list of layer numbers"),
        ({"method": "lorra"}, AdaptError, "unknown method 'lorra'. Did you mean 'lora'"),
    ],
)
def test_bad_input(tiny: AttentionMap, changes: dict, error: type[QVTuneError], message: str) -> None:
    with pytest.raises(error) as caught:
        generalization_bound(tiny, **{"examples": 100} | changes)
    assert message in str(caught.value)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"lora", "full"}))
def test_other_methods_are_told_what_it_is_for(tiny: AttentionMap, method: str) -> None:
    with pytest.raises(AdaptError, match=f"method is '{method}'.*It is for the methods lora and full"):
        generalization_bound(tiny, method=method, examples=100)


def test_role_that_the_model_does_not_have(tiny: AttentionMap) -> None:
    # Without output projections, as a model may be declared.
    data = tiny.to_dict()
    for layer in data["layers"]:
        layer["projections"] = [p for p in layer["projections"] if p["role"] != "o"]
    with pytest.raises(AdaptError, match="this model has no output projection"):
        generalization_bound(AttentionMap.from_dict(data), roles="qvo", examples=100)
