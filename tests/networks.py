"""Tiny random models of every layout of a feed-forward network, with its parts written by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers
from fused import FUSED_BY_ID
from models import build as build_separate
from torch import nn

_TOKENS = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LONG = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, **_TOKENS,
}  # fmt: skip
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0, **_TOKENS}


@dataclass(frozen=True)
class Net:
    """A model and, for each role, a module with {} for the layer, and the half of its rows if it is fused."""

    id: str
    build: Callable[[], nn.Module]
    roles: dict[str, str]
    halves: dict[str, int] = field(default_factory=dict)
    layers: int = 2

    @property
    def letters(self) -> str:
        return "".join(self.roles)

    def rows(self, role: str, total: int) -> list[int]:
        if role not in self.halves:
            return list(range(total))
        return list(range(self.halves[role] * total // 2, (self.halves[role] + 1) * total // 2))


def _of(architecture: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(0)
        kind = getattr(transformers, architecture)
        model = kind(kind.config_class(**options))
        for parameter in model.parameters():  # so that no bias is zero
            parameter.data += 0.05 * torch.randn_like(parameter)
        return model.eval()

    return make


_GATE_UP = {"g": 0, "u": 1}
NETS = (
    Net("llama", lambda: build_separate("llama"), {role: f"model.layers.{{}}.mlp.{name}_proj"
        for role, name in (("g", "gate"), ("u", "up"), ("d", "down"))}),
    Net("gpt2", FUSED_BY_ID["gpt2"].build, {"u": "transformer.h.{}.mlp.c_fc", "d": "transformer.h.{}.mlp.c_proj"}),
    Net("phi3", FUSED_BY_ID["phi3"].build, {"g": "model.layers.{}.mlp.gate_up_proj",
        "u": "model.layers.{}.mlp.gate_up_proj", "d": "model.layers.{}.mlp.down_proj"}, _GATE_UP),
    Net("bert", lambda: build_separate("bert"), {"u": "bert.encoder.layer.{}.intermediate.dense",
        "d": "bert.encoder.layer.{}.output.dense"}),
    Net("glm", _of("GlmForSequenceClassification", {**_LONG, "num_key_value_heads": 2, "head_dim": 8}),
        {"g": "model.layers.{}.mlp.gate_up_proj", "u": "model.layers.{}.mlp.gate_up_proj",
         "d": "model.layers.{}.mlp.down_proj"}, _GATE_UP),
    Net("modernbert", FUSED_BY_ID["modernbert"].build, {"g": "model.layers.{}.mlp.Wi", "u": "model.layers.{}.mlp.Wi",
        "d": "model.layers.{}.mlp.Wo"}, _GATE_UP),
    Net("gpt-neox", FUSED_BY_ID["gpt-neox"].build, {"u": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
        "d": "gpt_neox.layers.{}.mlp.dense_4h_to_h"}),
    Net("mt5-encoder", _of("MT5EncoderModel", {**_T5, "feed_forward_proj": "gated-gelu"}),
        {"g": "encoder.block.{}.layer.1.DenseReluDense.wi_0", "u": "encoder.block.{}.layer.1.DenseReluDense.wi_1",
         "d": "encoder.block.{}.layer.1.DenseReluDense.wo"}),
    Net("opt", _of("OPTModel", {**_LONG, "ffn_dim": 48, "activation_function": "gelu", "word_embed_proj_dim": 32}),
        {"u": "decoder.layers.{}.fc1", "d": "decoder.layers.{}.fc2"}),
    Net("albert", _of("AlbertForSequenceClassification", {**_LONG, "embedding_size": 16}),
        {"u": "albert.encoder.albert_layer_groups.{}.albert_layers.0.ffn",
         "d": "albert.encoder.albert_layer_groups.{}.albert_layers.0.ffn_output"}, layers=1),
)  # fmt: skip
NETS_BY_ID = {net.id: net for net in NETS}


def every_net(*ids: str) -> Any:
    """Parametrize over these models, or all."""
    chosen = [NETS_BY_ID[name] for name in ids] or list(NETS)
    return pytest.mark.parametrize("net", chosen, ids=[net.id for net in chosen])
