"""Tiny random models whose query, key and value share one matrix, with whose rows are whose written by hand.

`parts` cuts the fused weight, (rows, inputs), as the model's own code cuts the fused output: 4 heads of size 8.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from models import WIDTH
from torch import Tensor, nn

_TOKENS = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SHORT = {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 40, **_TOKENS}
_LONG = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    **_TOKENS,
}
_FALCON = {k: v for k, v in _LONG.items() if k not in ("intermediate_size", "max_position_embeddings")}


def _blocks(weight: Tensor) -> tuple[Tensor, ...]:
    return weight.split(WIDTH)


def _per_head(weight: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.flatten(0, 1) for part in weight.view(4, 3, 8, -1).unbind(1))


def _two_groups(weight: Tensor) -> tuple[Tensor, ...]:
    # per key head: two query heads, a key, a value
    grouped = weight.view(2, 4, 8, -1)
    return grouped[:, :2].flatten(0, 2), grouped[:, 2].flatten(0, 1), grouped[:, 3].flatten(0, 1)


def _one_key(weight: Tensor) -> tuple[Tensor, ...]:
    return weight.split((WIDTH, 8, 8))


def _two_keys(weight: Tensor) -> tuple[Tensor, ...]:
    return weight.split((WIDTH, 16, 16))


def _codegen(weight: Tensor) -> tuple[Tensor, ...]:
    query, value, key = (part.flatten(0, 1) for part in weight.view(4, 3, 8, -1).unbind(1))
    return query, key, value


def _gated(weight: Tensor) -> tuple[Tensor, ...]:
    # of heads with a query and a gate of 8 rows; key and value have matrices of their own
    heads = weight.view(4, 16, -1)
    return heads[:, :8].flatten(0, 1), heads[:0].flatten(0, 1), heads[:0].flatten(0, 1)


def _latent(weight: Tensor) -> tuple[Tensor, ...]:
    # of heads with 8 key and 4 value rows; the query has a matrix of its own
    heads = weight.view(4, 12, -1)
    return heads[:0].flatten(0, 1), heads[:, :8].flatten(0, 1), heads[:, 8:].flatten(0, 1)


@dataclass(frozen=True)
class Fused:
    """A model, the name of its fused module with {} for the layer, how it is cut, and key/value heads."""

    id: str
    architecture: str
    options: dict[str, Any]
    module: str
    parts: Callable[[Tensor], tuple[Tensor, ...]]
    kv_heads: int = 4

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        model_class = getattr(transformers, self.architecture)
        model = model_class(model_class.config_class(**self.options))
        for parameter in model.parameters():  # so that no bias is zero
            parameter.data += 0.05 * torch.randn_like(parameter)
        return model.eval()

    def weight(self, model: nn.Module, layer: int = 0) -> Tensor:
        """The fused weight as (rows, inputs)."""
        module = model.get_submodule(self.module.format(layer))
        weight = module.weight.detach()
        return weight.T if type(module).__name__ == "Conv1D" else weight


FUSED = (
    Fused("gpt2", "GPT2ForSequenceClassification", _SHORT, "transformer.h.{}.attn.c_attn", _blocks),
    Fused(
        "gpt-neox", "GPTNeoXForSequenceClassification", _LONG,
        "gpt_neox.layers.{}.attention.query_key_value", _per_head,
    ),
    Fused(
        "bloom", "BloomForSequenceClassification",
        {"hidden_size": WIDTH, "n_layer": 2, "n_head": 4, **_TOKENS},
        "transformer.h.{}.self_attention.query_key_value", _per_head,
    ),
    Fused(
        "falcon-new", "FalconForSequenceClassification",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
        "transformer.h.{}.self_attention.query_key_value", _two_groups, 2,
    ),
    Fused(
        "falcon-multi-query", "FalconForSequenceClassification",
        {**_FALCON, "new_decoder_architecture": False, "multi_query": True},
        "transformer.h.{}.self_attention.query_key_value", _one_key, 1,
    ),
    Fused(
        "falcon-rw", "FalconForSequenceClassification",
        {**_FALCON, "new_decoder_architecture": False, "multi_query": False, "alibi": True, "bias": True},
        "transformer.h.{}.self_attention.query_key_value", _per_head,
    ),
    Fused(
        "phi3", "Phi3ForSequenceClassification",
        {**_LONG, "num_key_value_heads": 2, "original_max_position_embeddings": 40},
        "model.layers.{}.self_attn.qkv_proj", _two_keys, 2,
    ),
    Fused(
        "mpt", "MptForSequenceClassification",
        {"d_model": WIDTH, "n_layers": 2, "n_heads": 4, "max_seq_len": 40, **_TOKENS},
        "transformer.blocks.{}.attn.Wqkv", _blocks,
    ),
    Fused(
        "gpt-bigcode", "GPTBigCodeForSequenceClassification", {**_SHORT, "multi_query": True},
        "transformer.h.{}.attn.c_attn", _one_key, 1,
    ),
    Fused(
        "gpt-bigcode-multi-head", "GPTBigCodeForSequenceClassification", {**_SHORT, "multi_query": False},
        "transformer.h.{}.attn.c_attn", _per_head,
    ),
    Fused(
        "modernbert", "ModernBertForSequenceClassification",
        {**_LONG, "cls_token_id": 1, "sep_token_id": 2, "attention_bias": True},
        "model.layers.{}.attn.Wqkv", _blocks,
    ),
    Fused(
        "qwen3-next", "Qwen3NextModel",
        {
            **_LONG, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1,
            "layer_types": ["full_attention", "full_attention"],
        },
        "layers.{}.self_attn.q_proj", _gated, 2,
    ),
    Fused("codegen", "CodeGenModel", {**_SHORT, "rotary_dim": 8, "n_ctx": 40}, "h.{}.attn.qkv_proj", _codegen),
    Fused(
        "deberta-v1", "DebertaForSequenceClassification",
        {**_LONG, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        "deberta.encoder.layer.{}.attention.self.in_proj", _per_head,
    ),
    Fused(
        "persimmon", "PersimmonForSequenceClassification", _LONG,
        "model.layers.{}.self_attn.query_key_value", _per_head,
    ),
    Fused(
        "deepseek-v3", "DeepseekV3Model",
        {
            **_LONG, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 1,
            "topk_group": 1, "num_experts_per_tok": 2, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8, "v_head_dim": 4,
        },
        "layers.{}.self_attn.kv_b_proj", _latent,
    ),
)  # fmt: skip

FUSED_BY_ID = {family.id: family for family in FUSED}


def fused_cases(*ids: str) -> Any:
    """Parametrize over these fused families, or all."""
    chosen = [FUSED_BY_ID[name] for name in ids] or list(FUSED)
    return pytest.mark.parametrize("family", chosen, ids=[family.id for family in chosen])


def tokens(rows: int = 2, positions: int = 9) -> dict[str, Tensor]:
    """Text without special tokens."""
    generator = torch.Generator().manual_seed(3)
    return {"input_ids": torch.randint(3, 100, (rows, positions), generator=generator)}
