"""Roles with more than one projection in a layer: Longformer, LED, LUKE, LiLT. All names are written by hand."""

from pathlib import Path

import pytest
import torch
import transformers
from models import assert_same_state, fitting, snapshot, stir, stir_lora
from peft import PeftModel
from rounding import assert_near, assert_stepped
from torch import nn

from qvtune.adaptation import adapt, count_parameters, restore
from qvtune.adapters import load_adapter, save_adapter
from qvtune.groups import param_groups
from qvtune.roles.find import find_attention

_BERT = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
_LED = {
    "vocab_size": 100, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "attention_window": 4, "dropout": 0.0,
    "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64,
}  # fmt: skip
ARCHITECTURES = {
    "longformer": ("LongformerForSequenceClassification", {**_BERT, "attention_window": [4, 4], "pad_token_id": 1}),
    "led": ("LEDForConditionalGeneration", _LED),
    "luke": ("LukeForEntityClassification", {**_BERT, "entity_vocab_size": 20, "entity_emb_size": 16}),
    "lilt": (
        "LiltForSequenceClassification",
        {**_BERT, "hidden_size": 48, "channel_shrink_ratio": 2, "max_2d_position_embeddings": 64},
    ),
}

_SELF = "encoder.layer.{}.attention.self."
_DECODER = ("led.decoder.layers.{}.self_attn.", "led.decoder.layers.{}.encoder_attn.")
# Modules of each role, {} for the layer, the measured one first.
MODULES = {
    "longformer": {
        "q": [f"longformer.{_SELF}query", f"longformer.{_SELF}query_global"],
        "k": [f"longformer.{_SELF}key", f"longformer.{_SELF}key_global"],
        "v": [f"longformer.{_SELF}value", f"longformer.{_SELF}value_global"],
    },
    "led": {
        role: [
            f"led.encoder.layers.{{}}.self_attn.longformer_self_attn.{name}",
            f"led.encoder.layers.{{}}.self_attn.longformer_self_attn.{name}_global",
            *(f"{attention}{role}_proj" for attention in _DECODER),
        ]
        for role, name in (("q", "query"), ("k", "key"), ("v", "value"))
    },
    "luke": {
        "q": [f"luke.{_SELF}{name}" for name in ("query", "w2e_query", "e2w_query", "e2e_query")],
        "k": [f"luke.{_SELF}key"],
        "v": [f"luke.{_SELF}value"],
    },
    "lilt": {
        "q": [f"lilt.{_SELF}query", f"lilt.{_SELF}layout_query"],
        "k": [f"lilt.{_SELF}key", f"lilt.{_SELF}layout_key"],
        "v": [f"lilt.{_SELF}value", f"lilt.{_SELF}layout_value"],
        "o": [f"lilt.encoder.layer.{{}}.attention.{name}.dense" for name in ("output", "layout_output")],
    },
}
# LiLT's head reads the text alone, so the last layer's values of places go nowhere.
UNREAD = {f"lilt.{_SELF}layout_value".format(1)}
EVERY = pytest.mark.parametrize("family", list(ARCHITECTURES))


def build(family: str) -> nn.Module:
    name, options = ARCHITECTURES[family]
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**options)).eval()
    stir(model.named_parameters())
    return model


def inputs(family: str) -> dict:
    """Tokens of which one has global attention, words with their places on a page, or words and entities."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 100, (2, 8), generator=generator)
    if family == "longformer":
        return {"input_ids": ids, "labels": torch.tensor([0, 1])}  # the model gives the first token global attention
    if family == "led":
        mask = torch.zeros_like(ids)
        mask[:, 2] = 1
        return {"input_ids": ids, "global_attention_mask": mask, "labels": ids}
    if family == "lilt":
        corners = torch.randint(0, 64, (2, 8, 4), generator=generator).sort().values
        return {"input_ids": ids, "bbox": corners, "labels": torch.tensor([0, 1])}
    return {
        "input_ids": ids,
        "entity_ids": torch.tensor([[1, 2], [3, 4]]),
        "entity_position_ids": torch.tensor([[[1, 2, -1], [4, -1, -1]]] * 2),
        "entity_attention_mask": torch.ones(2, 2, dtype=torch.long),
        "labels": torch.tensor([0, 1]),
    }


def modules(family: str, roles: str, layers: tuple = (0, 1)) -> set[str]:
    return {name.format(layer) for role in roles for name in MODULES[family][role] for layer in layers}


@EVERY
def test_every_projection_is_in_the_map(family: str) -> None:
    attention = find_attention(build(family))
    assert attention.verified
    for role in "qkv":
        found = [p.module for p in attention.projections(role)]
        assert set(found) == modules(family, role)
        assert len(found) == len(set(found))
        assert attention.layers[1][role].module == MODULES[family][role][0].format(1)
        assert {attention.role_of_module(f"{name}.weight") for name in found} == {role}


@EVERY
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(("roles", "layers"), [("qv", None), ("k", None), ("q", [-1])])
def test_what_trains(family: str, method: str, roles: str, layers: list | None) -> None:
    """One step moves the matrices of the roles, written by hand, and after restoring nothing else."""
    model = build(family)
    before = snapshot(model)
    expected = modules(family, roles, (0, 1) if layers is None else (1,))
    adapted = adapt(model, roles=roles, method=method, layers=layers, **fitting(method, rank=3, dropout=0.0), head=[])
    if method == "lora":
        stir_lora(adapted)
        assert count_parameters(adapted).adapter == sum(3 * sum(before[f"{name}.weight"].shape) for name in expected)
    adapted(**inputs(family)).loss.backward()
    torch.optim.AdamW(param_groups(adapted, lr=0.01, weight_decay=0.1)).step()
    if method == "full":
        expected -= UNREAD
    after = restore(adapted).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.removesuffix(".weight") for name in moved if name.endswith(".weight")} == expected
    biases = {f"{name}.bias" for name in expected} if method == "full" else set()
    assert {name for name in moved if name.endswith(".bias")} <= biases


@EVERY
def test_each_moves_at_the_rate_of_its_role(family: str) -> None:
    """One step of plain SGD is rate times the gradient of the plain model."""
    whole = build(family)
    whole(**inputs(family)).loss.backward()
    adapted = adapt(build(family), roles="qv", method="full", head=[])
    adapted(**inputs(family)).loss.backward()
    torch.optim.SGD(param_groups(adapted, lr=0.1, lr_ratio=8), lr=1.0).step()
    reached = 0
    for role, rate in (("q", 0.1), ("v", 0.8), ("k", 0.0)):
        for name in modules(family, role):
            start = whole.get_parameter(f"{name}.weight")
            gradient = torch.zeros_like(start) if start.grad is None else start.grad
            reached += bool(gradient.any())
            end = adapted.get_parameter(f"{name}.weight")
            assert_stepped(end, start, -rate * gradient)
    assert reached > len(modules(family, "qkv")) // 2


def test_lilts_outputs() -> None:
    model = build("lilt")
    adapted = adapt(model, roles="o", method="full", head=[])
    trained = {name.removesuffix(".weight") for name, p in adapted.named_parameters() if p.requires_grad}
    assert {name for name in trained if not name.endswith("bias")} == modules("lilt", "o")


def test_longformers_classes_hang_on_its_global_projections() -> None:
    """The head reads the first token, which has global attention: in the last layer no other projection counts."""
    adapted = adapt(build("longformer"), roles="qkv", method="full", head=[])
    adapted(**inputs("longformer")).loss.backward()
    moves = {name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-9}
    last = {name.split(".")[-2] for name in moves if ".layer.1." in name and name.endswith(".weight")}
    assert last == {"query_global", "key_global", "value_global"}


def test_a_longformer_adapter_in_plain_peft(tmp_path: Path) -> None:
    model = adapt(build("longformer"), roles="qv", rank=3, alpha=5, head=[])
    stir_lora(model)
    given = inputs("longformer")
    with torch.no_grad():
        ours, plain = model.eval()(**given).logits, build("longformer")(**given).logits
        assert (ours - plain).abs().max() > 1e-4
        save_adapter(model, tmp_path)
        theirs = PeftModel.from_pretrained(build("longformer"), str(tmp_path)).eval()(**given).logits
        assert_near(theirs, ours)
        back = load_adapter(build("longformer"), tmp_path).eval()
        assert_near(back(**given).logits, ours)
    assert_same_state(snapshot(build("longformer")), restore(back, merge=False))


_BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1] * 4, "out_features": ["stage4"]}
_DETR = {
    "use_timm_backbone": False, "use_pretrained_backbone": False, "encoder_layers": 1, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "num_queries": 5,
}  # fmt: skip
# By role, the projections of both layers of the decoder; the first layer alone has those that are listed last.
DETRS = {
    "ConditionalDetr": (
        {**_DETR, "d_model": 32},
        {
            "q": ["self_attn.q_content_proj", "self_attn.q_pos_proj", "encoder_attn.q_content_proj",
                  "encoder_attn.q_pos_sine_proj"],
            "k": ["self_attn.k_content_proj", "self_attn.k_pos_proj", "encoder_attn.k_content_proj",
                  "encoder_attn.k_pos_proj"],
            "v": ["self_attn.v_proj", "encoder_attn.v_proj"],
            "o": ["self_attn.o_proj", "encoder_attn.o_proj"],
        },
        "decoder.layers.0.encoder_attn.q_pos_proj",
    ),
    "DabDetr": (
        {**_DETR, "hidden_size": 32},
        {
            "q": ["self_attn.self_attn_query_content_proj", "self_attn.self_attn_query_pos_proj",
                  "cross_attn.cross_attn_query_content_proj", "cross_attn.cross_attn_query_pos_sine_proj"],
            "k": ["self_attn.self_attn_key_content_proj", "self_attn.self_attn_key_pos_proj",
                  "cross_attn.cross_attn_key_content_proj", "cross_attn.cross_attn_key_pos_proj"],
            "v": ["self_attn.self_attn_value_proj", "cross_attn.cross_attn_value_proj"],
            "o": ["self_attn.self_attn.output_proj", "cross_attn.cross_attn.output_proj"],
        },
        "decoder.layers.0.cross_attn.cross_attn_query_pos_proj",
    ),
}  # fmt: skip


def build_detr(family: str) -> nn.Module:
    options, _, _ = DETRS[family]
    config_class = getattr(transformers, f"{family}Config")
    config = config_class(**options, backbone=None, backbone_config=transformers.ResNetConfig(**_BACKBONE))
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(config).eval()
    stir(model.named_parameters())
    return model


@pytest.mark.parametrize("family", list(DETRS))
def test_projections_of_what_is_read_and_of_its_place(family: str) -> None:
    """One step of each role moves its projections, those of the query's place too, and nothing else."""
    _, names, first = DETRS[family]
    attention = find_attention(build_detr(family))
    assert attention.verified
    assert [layer.kind for layer in attention] == ["self", "self", "cross", "self", "cross"]
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for role, paths in names.items():
        expected = {f"decoder.layers.{layer}.{path}" for layer in (0, 1) for path in paths}
        expected |= {first} if role == "q" else set()
        assert {p.module for p in attention.projections(role) if p.module.startswith("decoder")} == expected
        model = adapt(build_detr(family), roles=role, method="full", head=[])
        before = snapshot(model)
        model(pixels).last_hidden_state.square().sum().backward()
        torch.optim.AdamW(param_groups(model, lr=0.01, weight_decay=0.1)).step()
        moved = {name.rpartition(".")[0] for name, value in model.state_dict().items() if not value.equal(before[name])}
        assert {name for name in moved if name.startswith("decoder")} == expected
        assert len(moved - expected) == 1  # of the encoder's layer
