"""Tiny random models of every family under test: 2 layers, width 32, no network.

The names of the projections and of the head are written by hand and are what the tests compare with.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from qvtune.methods.table import METHODS

# These models are so small that handing work to a second thread costs far more than the work itself.
torch.set_num_threads(1)

EOS = 2
VOCABULARY = 100
WIDTH = 32

_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": EOS}
_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    **_TOKENS,
}
_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    **_TOKENS,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 40,
    "dropout": 0.0,
    "decoder_start_token_id": EOS,
    "forced_eos_token_id": EOS,
    **_TOKENS,
}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "classifier_dropout": 0.0,
    "decoder_start_token_id": 0,
    **_TOKENS,
}
_DEBERTA = {**_BERT, "pooler_hidden_size": WIDTH, "position_buckets": -1}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}

_QUERY = ("self.query", "self.key", "self.value", "output.dense")
_QUERY_PROJ = ("self.query_proj", "self.key_proj", "self.value_proj", "output.dense")
_Q_PROJ = ("q_proj", "k_proj", "v_proj", "o_proj")
_OUT_PROJ = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class Family:
    """One model, and what is known of it by hand.

    `places` lists (stack, kind, name of the attention layer with {} for its index), `names` the projections
    relative to it in the order q, k, v, o, `biased` the roles with a bias.
    """

    id: str
    architecture: str
    options: dict[str, Any]
    places: tuple[tuple[str, str, str], ...]
    names: tuple[str, str, str, str]
    head: tuple[str, ...]
    biased: str = "qkvo"
    kv_heads: int = 4
    head_dim: int = 8
    layers: int = 2
    uses: int = 1
    images: bool = field(default=False)

    def projections(self, roles: str = "qkvo", layers: tuple[int, ...] | None = None) -> list[str]:
        """Name the modules of `roles`."""
        return [
            f"{place.format(index)}.{name}"
            for _, _, place in self.places
            for index in (range(self.layers) if layers is None else layers)
            for role, name in zip("qkvo", self.names, strict=True)
            if role in roles
        ]

    def shape(self, role: str) -> tuple[int, int]:
        """Rows and columns of a projection's weight; the head count is 4 everywhere."""
        rows, kv_rows = 4 * self.head_dim, self.kv_heads * self.head_dim
        return {"q": (rows, WIDTH), "k": (kv_rows, WIDTH), "v": (kv_rows, WIDTH), "o": (WIDTH, rows)}[role]


def _one(place: str) -> tuple[tuple[str, str, str], ...]:
    return (("", "self", place),)


def _llama(name: str, prefix: str, head_dim: int = 8, biased: str = "", **options: Any) -> Family:
    names = ("q_proj", "k_proj", "v_proj", "dense") if name == "phi" else _Q_PROJ
    return Family(
        name,
        f"{prefix}ForSequenceClassification",
        {**_LLAMA, **({"head_dim": head_dim} if head_dim != 8 else {}), **options},
        _one("model.layers.{}.self_attn"),
        names,
        ("score",),
        biased,
        kv_heads=2,
        head_dim=head_dim,
    )


def _bert(name: str, prefix: str, base: str, head: tuple[str, ...] = ("classifier",), **options: Any) -> Family:
    architecture = f"{prefix}ForSequenceClassification"
    return Family(name, architecture, {**_BERT, **options}, _one(base + ".encoder.layer.{}.attention"), _QUERY, head)


def _deberta(name: str, **options: Any) -> Family:
    return Family(
        name,
        "DebertaV2ForSequenceClassification",
        {**_DEBERTA, **options},
        _one("deberta.encoder.layer.{}.attention"),
        _QUERY_PROJ,
        ("pooler", "classifier"),
    )


FAMILIES = (
    _bert("bert", "Bert", "bert"),
    _bert("roberta", "Roberta", "roberta"),
    _bert("xlm-roberta", "XLMRoberta", "roberta"),
    _bert("camembert", "Camembert", "roberta"),
    _bert("electra", "Electra", "electra", embedding_size=16),
    Family(
        "distilbert",
        "DistilBertForSequenceClassification",
        {
            "vocab_size": VOCABULARY,
            "dim": WIDTH,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "max_position_embeddings": 40,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "seq_classif_dropout": 0.0,
            "pad_token_id": 0,
        },
        _one("distilbert.transformer.layer.{}.attention"),
        ("q_lin", "k_lin", "v_lin", "out_lin"),
        ("pre_classifier", "classifier"),
    ),
    Family(
        "albert",
        "AlbertForSequenceClassification",
        {**_BERT, "embedding_size": 16, "num_hidden_layers": 3, "classifier_dropout_prob": 0.0},
        _one("albert.encoder.albert_layer_groups.{}.albert_layers.0.attention"),
        ("query", "key", "value", "dense"),
        ("classifier",),
        layers=1,
        uses=3,
    ),
    Family(
        "mpnet",
        "MPNetForSequenceClassification",
        _BERT,
        _one("mpnet.encoder.layer.{}.attention.attn"),
        ("q", "k", "v", "o"),
        ("classifier",),
    ),
    _deberta("deberta-v2"),
    _deberta("deberta-v2-shared-keys", share_att_key=True, **_RELATIVE),
    _deberta("deberta-v2-own-position-keys", share_att_key=False, **_RELATIVE),
    _llama("llama", "Llama"),
    _llama("mistral", "Mistral"),
    _llama("qwen2", "Qwen2", biased="qkv"),
    _llama("qwen3", "Qwen3", head_dim=6),
    _llama("gemma2", "Gemma2", head_dim=6),
    _llama("gemma3", "Gemma3Text", head_dim=6),
    _llama("phi", "Phi", biased="qkvo", partial_rotary_factor=0.5, resid_pdrop=0.0),
    Family(
        "opt",
        "OPTForSequenceClassification",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": WIDTH,
            "word_embed_proj_dim": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 48,
            "max_position_embeddings": 40,
            "dropout": 0.0,
            **_TOKENS,
        },
        _one("model.decoder.layers.{}.self_attn"),
        _OUT_PROJ,
        ("score",),
    ),
    Family(
        "gptj",
        "GPTJForSequenceClassification",
        {
            "vocab_size": VOCABULARY,
            "n_embd": WIDTH,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 48,
            "n_positions": 40,
            "rotary_dim": 4,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            **_TOKENS,
        },
        _one("transformer.h.{}.attn"),
        _OUT_PROJ,
        ("score",),
        "",
    ),
    Family(
        "t5",
        "T5ForSequenceClassification",
        _T5,
        (
            ("encoder", "self", "transformer.encoder.block.{}.layer.0.SelfAttention"),
            ("decoder", "self", "transformer.decoder.block.{}.layer.0.SelfAttention"),
            ("decoder", "cross", "transformer.decoder.block.{}.layer.1.EncDecAttention"),
        ),
        ("q", "k", "v", "o"),
        ("classification_head",),
        "",
        head_dim=6,
    ),
    Family(
        "bart",
        "BartForSequenceClassification",
        _BART,
        (
            ("encoder", "self", "model.encoder.layers.{}.self_attn"),
            ("decoder", "self", "model.decoder.layers.{}.self_attn"),
            ("decoder", "cross", "model.decoder.layers.{}.encoder_attn"),
        ),
        _OUT_PROJ,
        ("classification_head",),
    ),
    Family(
        "vit",
        "ViTForImageClassification",
        {**{k: v for k, v in _BERT.items() if k in _BERT.keys() - _TOKENS}, "image_size": 16, "patch_size": 4},
        _one("vit.layers.{}.attention"),
        _Q_PROJ,
        ("classifier",),
        images=True,
    ),
)

BY_ID = {family.id: family for family in FAMILIES}
TEXT = tuple(family for family in FAMILIES if not family.images)


def cases(*ids: str) -> Any:
    """Parametrise a test over families: the named ones, or all."""
    chosen = [BY_ID[name] for name in ids] if ids else list(FAMILIES)
    return pytest.mark.parametrize("family", chosen, ids=[family.id for family in chosen])


def build(family: Family | str, *, architecture: str | None = None, seed: int = 0, **options: Any) -> nn.Module:
    """Return the model in eval mode, every parameter moved off its initial value (biases and norms as well)."""
    family = BY_ID[family] if isinstance(family, str) else family
    model_class = getattr(transformers, architecture or family.architecture)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = model_class.config_class(**{**family.options, "num_labels": 3, **options})
        model = model_class._from_config(config)
        stir(model.named_parameters())
    return model.eval()


def stir(parameters: Any, scale: float = 0.1, seed: int = 1) -> None:
    """Add noise to (name, parameter) pairs, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in parameters:
            parameter += scale * torch.randn(parameter.shape, generator=generator).to(parameter)


def fitting(method: str, **options: Any) -> dict[str, Any]:
    """Keep the options that a method takes, for tests of several methods."""
    return {name: value for name, value in options.items() if name in METHODS[method].defaults}


def stir_lora(model: nn.Module, seed: int = 2) -> None:
    """Give every LoRA factor B, zero at the start, random values."""
    chosen = [(name, p) for name, p in model.named_parameters() if "lora_B" in name]
    assert chosen
    stir(chosen, 0.3, seed)


def batch(rows: int = 4, positions: int = 8, seed: int = 0) -> dict[str, Tensor]:
    """Random token ids that end with the end-of-sequence token, and labels of three classes."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, positions), generator=generator)
    ids[:, -1] = EOS
    return {"input_ids": ids, "labels": torch.arange(rows) % 3}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copy every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_state(before: dict[str, Tensor], model: nn.Module) -> None:
    """Fail unless `model` holds what `snapshot` copied, bit for bit."""
    after = model.state_dict()
    assert list(after) == list(before)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == []
