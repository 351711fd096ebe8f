"""Queries and values with a bias and keys without: parameters beside the matrix, one fused bias, or layers apart."""

import pytest
import torch
from models import assert_same_state, fitting, snapshot
from rounding import assert_near
from torch import Tensor, nn
from transformers import (
    BeitConfig,
    BeitModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    DebertaConfig,
    DebertaModel,
    GPTNeoXJapaneseConfig,
    GPTNeoXJapaneseModel,
    LayoutLMv2Config,
    PreTrainedModel,
)
from transformers.models.layoutlmv2.modeling_layoutlmv2 import LayoutLMv2Attention

from qvtune.adaptation import adapt, count_parameters, restore
from qvtune.groups import param_groups
from qvtune.roles.find import find_attention

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_IMAGE = {**_SIZES, "image_size": 16, "patch_size": 8}


class Layout(PreTrainedModel):
    """LayoutLMv2's attention without its image tower, which needs a library of its own."""

    config_class = LayoutLMv2Config

    def __init__(self, config: LayoutLMv2Config) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(100, 32)
        self.layers = nn.ModuleList(LayoutLMv2Attention(config) for _ in range(2))

    def forward(self, input_ids: Tensor, **kwargs) -> tuple[Tensor]:
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, torch.zeros(1, 1, 1, input_ids.shape[1]))
        return (hidden,)


def _layout() -> nn.Module:
    plain = {"has_relative_attention_bias": False, "has_spatial_attention_bias": False}
    return Layout(LayoutLMv2Config(**_SIZES, vocab_size=100, fast_qkv=True, **plain))


BUILD = {
    "layoutlmv2": _layout,
    "deberta": lambda: DebertaModel(DebertaConfig(**_SIZES, vocab_size=100, max_position_embeddings=40)),
    "blip-2": lambda: Blip2VisionModel(Blip2VisionConfig(**_IMAGE)),
    "beit": lambda: BeitModel(BeitConfig(**_IMAGE)),
}
# What a role trains in full, and which rows of it, in layer {}.
QKV, THIRDS = "encoder.layers.{}.self_attn.qkv", {"q": slice(0, 32), "k": slice(32, 64), "v": slice(64, 96)}
DEBERTA = "encoder.layer.{}.attention.self."
OWN: dict = {
    "layoutlmv2": {
        "q": {"layers.{}.self.qkv_linear.weight": THIRDS["q"], "layers.{}.self.q_bias": ...},
        "k": {"layers.{}.self.qkv_linear.weight": THIRDS["k"]},
        "v": {"layers.{}.self.qkv_linear.weight": THIRDS["v"], "layers.{}.self.v_bias": ...},
    },
    "deberta": {
        role: {f"{DEBERTA}in_proj.weight": [head * 24 + 8 * place + row for head in range(4) for row in range(8)]}
        | ({} if role == "k" else {f"{DEBERTA}{role}_bias": ...})
        for place, role in enumerate("qkv")
    },
    "blip-2": {
        role: {f"{QKV}.weight": rows} | ({} if role == "k" else {f"{QKV}.bias": rows}) for role, rows in THIRDS.items()
    },
    "beit": {
        role: {f"layers.{{}}.attention.{role}_proj.weight": ...}
        | ({} if role == "k" else {f"layers.{{}}.attention.{role}_proj.bias": ...})
        for role in "qkv"
    },
}
EVERY = pytest.mark.parametrize("family", list(BUILD))


def build(family: str) -> nn.Module:
    torch.manual_seed(0)
    model = BUILD[family]().eval()
    for name, parameter in model.named_parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
        if family == "blip-2" and name.endswith("qkv.bias"):
            parameter.data[32:64] = 0  # as its code makes it, and its checkpoints hold it
    return model


def run(model: nn.Module) -> Tensor:
    if isinstance(model, (Layout, DebertaModel)):
        return model(torch.tensor([[5, 9, 3, 7, 8, 2]]))[0]
    generator = torch.Generator().manual_seed(1)
    return model(torch.randn(1, 3, 16, 16, generator=generator))[0]


def own(family: str, roles: str, before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Say of each value whether it belongs to one of the roles."""
    masks = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in before.items()}
    for role in roles:
        for name, rows in OWN[family][role].items():
            for layer in (0, 1):
                masks[name.format(layer)][rows] = True
    return masks


@EVERY
@pytest.mark.parametrize("roles", ["qv", "k", "qkv"])
def test_full_training_moves_the_roles_and_their_own_biases(family: str, roles: str) -> None:
    """AdamW makes a full step of a gradient that is rounding alone, as a key bias has, and decay moves the rest."""
    model = build(family)
    before = snapshot(model)
    masks = own(family, roles, before)
    adapted = adapt(model, roles=roles, method="full", head=[])
    assert count_parameters(adapted).adapter == sum(int(mask.sum()) for mask in masks.values())
    optimizer = torch.optim.AdamW(param_groups(adapted, lr=0.01, weight_decay=0.1))
    for _ in range(2):
        run(adapted).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = restore(adapted).state_dict()
    assert list(after) == list(before)
    for name, old in before.items():
        assert torch.equal(old != after[name], masks[name]), name


@EVERY
@pytest.mark.parametrize("method", ["lora", "full"])
def test_adapted_and_restored_it_is_the_same_bit_for_bit(family: str, method: str) -> None:
    model = build(family)
    before = snapshot(model)
    with torch.no_grad():
        plain = run(model)
        adapted = adapt(model, roles="qkv", method=method, **fitting(method, rank=2), head=[]).eval()
        assert_near(run(adapted.base_model.model if method == "lora" else adapted), plain)
    restored = restore(adapted)
    assert_same_state(before, restored)
    assert all(parameter.requires_grad for parameter in restored.parameters())


@EVERY
def test_the_map_says_which_roles_have_a_bias(family: str) -> None:
    attention = find_attention(build(family))
    assert attention.verified
    biased = {p.role for p in attention.projections("qkv") if p.bias or p.extra}
    assert biased == {"q", "v"}


def test_an_output_bias_that_is_kept_apart_trains_with_the_output() -> None:
    torch.manual_seed(0)
    model = GPTNeoXJapaneseModel(GPTNeoXJapaneseConfig(**_SIZES, vocab_size=100, bos_token_id=1, eos_token_id=2))
    before = snapshot(model)
    adapted = adapt(model, roles="o", method="full", head=[])
    assert [group["name"] for group in param_groups(adapted, lr=0.1)] == ["output", "output_no_decay"]
    adapted(torch.tensor([[5, 9, 3]]))[0].sin().sum().backward()
    torch.optim.SGD(param_groups(adapted, lr=0.1), lr=0.1).step()
    after = restore(adapted).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    dense = {f"layers.{layer}.attention.dense.weight" for layer in (0, 1)}
    assert moved == dense | {"layers.1.attention.dense_bias"}  # the last layer alone has one
