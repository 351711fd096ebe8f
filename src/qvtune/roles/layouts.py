"""The layouts of attention modules, as data: which child has which role, and which rows of a child with several roles.

`feed_forward.py` has those of feed-forward networks.

The tables are hints. `probe.py` measures on the model what a projection really does.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

ROLES = {"q": "query", "k": "key", "v": "value", "o": "output", "g": "gate", "u": "up", "d": "down"}
# The roles of attention, and those of the feed-forward network that follows it.
ATTENTION, FEED_FORWARD = "qkvo", "gud"
# Names of sets of roles.
SETS = {"attention": ATTENTION, "mlp": FEED_FORWARD, "all": ATTENTION + FEED_FORWARD}


@dataclass(frozen=True)
class Rows:
    """Rows of a matrix that belong to one role: `repeats` runs of `size` rows, one every `period` rows from `start` on.

    >>> Rows(start=2, size=2, period=6, repeats=2).indices()
    [2, 3, 8, 9]
    """

    start: int
    size: int
    period: int = 0
    repeats: int = 1

    def __len__(self) -> int:
        return self.size * self.repeats

    def indices(self) -> list[int]:
        """List the row numbers, ascending."""
        return [self.start + run * self.period + row for run in range(self.repeats) for row in range(self.size)]


def rows_of(numbers: list[int]) -> Rows | None:
    """Return ascending row numbers as `Rows`, or None if they are not runs of equal length at equal distances."""
    size = next((i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1), len(numbers))
    period = numbers[size] - numbers[0] if size < len(numbers) else 0
    rows = Rows(numbers[0], size, period, len(numbers) // size)
    return rows if rows.indices() == numbers else None


# Sizes of a layer: query heads, key/value heads, size of a head.
Sizes = tuple[int, int, int]
Arrangement = Callable[[Sizes], dict[str, Rows]]


def blocks(sizes: Sizes) -> dict[str, Rows]:
    """All queries, then all keys, then all values."""
    heads, groups, size = sizes
    query, key = heads * size, groups * size
    return {"q": Rows(0, query), "k": Rows(query, key), "v": Rows(query + key, key)}


def grouped(sizes: Sizes) -> dict[str, Rows]:
    """For each key/value head: the queries that share it, its key, its value.

    With a key head per query head this is query, key, value head by head; with one key head it is `blocks`.
    """
    heads, groups, size = sizes
    shared = heads // groups * size
    period = shared + 2 * size
    return {
        "q": Rows(0, shared, period, groups),
        "k": Rows(shared, size, period, groups),
        "v": Rows(shared + size, size, period, groups),
    }


# CodeGen's checkpoints were trained in four parallel parts, so its code always cuts the matrix in four.
CODEGEN_PARTS = 4


def codegen(sizes: Sizes) -> dict[str, Rows]:
    """Four parts, each all of its queries, then values, then keys."""
    heads, _, size = sizes
    part = heads * size // CODEGEN_PARTS
    return {role: Rows(place * part, part, 3 * part, CODEGEN_PARTS) for place, role in enumerate("qvk")}


def key_value_halves(sizes: Sizes) -> dict[str, Rows]:
    """All keys, then all values."""
    _, groups, size = sizes
    return {"k": Rows(0, groups * size), "v": Rows(groups * size, groups * size)}


@dataclass(frozen=True)
class SeparateLayout:
    """Query, key and value are children of one module."""

    query: str
    key: str
    value: str


@dataclass(frozen=True)
class FusedLayout:
    """One child holds several roles.

    `fused` names it, `arrangement` assigns its rows to roles, and `query` names the query if it has its own child. If
    classes with the same child name arrange rows differently, `classes` is a pattern for the classes of this entry, and
    the first entry that fits is used.
    """

    name: str
    fused: str
    arrangement: Arrangement
    query: str | None = None
    classes: str = ""

    def is_for(self, class_name: str) -> bool:
        """Whether this entry is for modules of that class."""
        return re.search(self.classes, class_name) is not None


SEPARATE_LAYOUTS = (
    SeparateLayout("query", "key", "value"),  # BERT and similar models, ViT-like models
    SeparateLayout("q_proj", "k_proj", "v_proj"),  # Llama, Mistral, Qwen, Gemma, OPT, BART, GPT-J, Phi, CLIP, Whisper
    SeparateLayout("query_proj", "key_proj", "value_proj"),  # DeBERTa-v2 and v3, ProphetNet
    SeparateLayout("q_lin", "k_lin", "v_lin"),  # DistilBERT, XLM, FlauBERT
    SeparateLayout("q", "k", "v"),  # T5, MPNet
    SeparateLayout("linear_q", "linear_k", "linear_v"),  # conformers
    SeparateLayout("Wq", "Wk", "Wv"),  # CTRL
    SeparateLayout("q_head", "k_head", "v_head"),  # Funnel
    SeparateLayout("project_q", "project_k", "project_v"),  # CPM-Ant
    SeparateLayout("projection_query", "projection_key", "projection_value"),  # CvT
    SeparateLayout("to_q", "to_k", "to_v"),
    SeparateLayout("q_content_proj", "k_content_proj", "v_proj"),  # Conditional DETR
    *(  # DAB-DETR
        SeparateLayout(f"{which}_query_content_proj", f"{which}_key_content_proj", f"{which}_value_proj")
        for which in ("self_attn", "cross_attn")
    ),
)

FUSED_LAYOUTS = (
    FusedLayout("codegen", "qkv_proj", codegen, classes="CodeGen"),
    FusedLayout("blocks", "qkv_proj", blocks),  # Phi-3
    FusedLayout("blocks", "qkv", blocks),  # SAM, BLIP, TimeSformer, the vision towers of Qwen-VL and GLM-V
    FusedLayout("blocks", "Wqkv", blocks),  # ModernBERT, MPT, DBRX
    FusedLayout("blocks", "qkv_linear", blocks),  # LayoutLMv2
    FusedLayout("blocks", "att_proj", blocks),  # Bark
    FusedLayout("grouped", "query_key_value", grouped),  # GPT-NeoX, BLOOM, Persimmon, Falcon in all its forms
    FusedLayout("grouped", "in_proj", grouped, classes="DisentangledSelfAttention"),  # DeBERTa v1
    FusedLayout("key_value_halves", "c_attn", key_value_halves, query="q_attn"),  # cross-attention of GPT-2
    FusedLayout("grouped", "c_attn", grouped, classes="GPTBigCode"),
    FusedLayout("blocks", "c_attn", blocks),  # GPT-2 and similar models
    FusedLayout("key_value_halves", "to_kv", key_value_halves, query="to_q"),  # conformers of Granite-Speech
)

# Projections that a role has beside its first one, for some of the tokens or some of their features: tokens with global
# attention in Longformer and LED, pairs of words and entities in LUKE, the place on the page in LiLT, the place in the
# image in Conditional and DAB-DETR. Their names are relative to the module of query, key and value.
FURTHER = {
    "q": ("query_global", "w2e_query", "e2w_query", "e2e_query", "layout_query", "q_pos_proj", "q_pos_sine_proj",
          "self_attn_query_pos_proj", "cross_attn_query_pos_proj", "cross_attn_query_pos_sine_proj"),
    "k": ("key_global", "layout_key", "k_pos_proj", "self_attn_key_pos_proj", "cross_attn_key_pos_proj"),
    "v": ("value_global", "layout_value"),
    "o": ("../layout_output.dense",),
}  # fmt: skip

# Biases that are parameters beside the projections, in DeBERTa, LayoutLMv2 and GPT-NeoX-Japanese.
BIASES = {"q": "q_bias", "k": "k_bias", "v": "v_bias", "o": "dense_bias"}

# Classes whose query projection outputs, head by head, a query and then a gate for the head's output.
GATED_QUERIES = r"^Qwen3(Next|_5)"

# Classes of differential attention: two pairs of query and key, of half a head each, weight the value of a whole head.
PAIRED_HEADS = r"^DiffLlama"

# Classes that build a fused bias from those of query and value, with zeros for the key, which has none.
WITHOUT_KEY_BIAS = r"^(Blip2|InstructBlip|InstructBlipVideo|PPOCRV\d\w*)Attention$"

# Low-rank attention of DeepSeek: the query's last factor, and one matrix from the shared latent to every head's key
# (without its rotary part) and value.
LATENT_KEY_VALUE = "kv_b_proj"
LATENT_QUERIES = ("q_b_proj", "q_proj")

# Where the output projection is, relative to the module of query, key and value; the first that exists is used.
OUTPUTS = (
    "o_proj", "out_proj", "out_lin", "o", "linear_out", "c_proj", "Wo", "proj", "projection", "projection_layer",
    "to_out", "attention_out", "output_proj", "post_proj", "proj_out", "dense", "linear", "output", "../output.dense",
    "../output", "../out_proj", "../post", "../dense", "self_attn.output_proj", "cross_attn.output_proj",
)  # fmt: skip

# Children of a decoder layer that attend to the encoder. This is only a hint; the probe compares the inputs.
CROSS_ATTENTION_NAMES = frozenset({"EncDecAttention", "encoder_attn", "crossattention", "cross_attn"})

# Attributes in which attention modules store their sizes.
HEAD_DIM_ATTRIBUTES = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size", "dim_per_head", "d_head")
HEADS_ATTRIBUTES = ("num_heads", "num_attention_heads", "n_heads", "n_head", "num_local_attention_heads")

# Modules with attention in their class's name that have no query, key and value to adapt: a pattern of the class's
# name, or the name of a child or parameter that identifies them, and the reason.
WITHOUT_ROLES_BY_CLASS = {
    "GroupViTAssignAttention": "an assignment of patches to groups: a softmax over queries, not over keys",
    "ChannelAttention": "attention over channels, not over positions",
    "^Aimv2AttentionPoolingHead": "pooling with a learned query",
    "BiMultiHeadAttention": "a two-way fusion of image and text with one product for both",
    "VQVAE(Encoder)?Attn": "made of convolutions over an image",
    "PatchTSMixerGatedAttention": "a gate: no query and key product",
    "LinearSelfAttention$": "linear attention: a scalar query",
    "SqueezeBertSelfAttention": "made of grouped convolutions, into which PEFT can merge no adapter",
    "IBertSelfAttention": "made of quantised layers of its own, to which PEFT can attach none",
    "(Delta|Lightning)Attention$|TextLinearAttention$|DeltaNet$": "linear attention: no softmax over keys",
    "Levit.*Attention": "made of a linear layer with a batch norm for query, key and value together",
    "JetMoeAttention": "attention with a mixture of experts for its query and output",
    "ZayaAttention": "attention whose queries and keys go through convolutions",
    "DeepseekV4Attention": "attention with one matrix for key and value",
    "AXK2Attention": "attention with one matrix for a query and its gate, of two inputs",
    "^xLSTMLayer$": "a recurrent matrix memory: no softmax over keys",
    "FNetFourierTransform|FNetBasicFourierTransform": "a Fourier transform",
    "^DabDetrAttention$": "the product of query and key alone, whose projections its parent has",
    "Attention.*(MLP|Merger)$": "no attention but part of a layer that has some",
    "RelativeAttentionBias$|AttentionResidual$": "a bias or residual of attention",
}
WITHOUT_ROLES_BY_CHILD = {
    "A_log": "a state-space or linear-attention layer: no softmax over keys",
    "time_decay": "a recurrent layer: no query and key product",
    "sampling_offsets": "deformable attention: no keys",
    "query_key": "attention with one matrix for query and key",
    "to_query": "additive attention: no value",
    "output_gate": "linear attention: no softmax over keys",
}

# Children that wrap a linear layer, to clip its values or to choose among several, have it under this name.
WRAPPED = "linear"

# Attributes of a layer that takes keys and values from an earlier layer and has only a query.
SHARES_KEYS = ("is_kv_shared_layer",)
