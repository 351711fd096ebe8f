"""How attention modules are laid out, as data: which child of an attention module plays which role.

A row of the table is a hint. What a projection really does is measured on the model by `probe.py`.
"""

from dataclasses import dataclass

ROLES = {"q": "query", "k": "key", "v": "value", "o": "output"}


@dataclass(frozen=True)
class SeparateLayout:
    """Three projections that are children of one module, and an output projection near by.

    `output` lists paths relative to that module, tried in order; a leading `../` means its parent.
    """

    query: str
    key: str
    value: str
    output: tuple[str, ...]


SEPARATE_LAYOUTS = (
    # BERT, RoBERTa, XLM-R, CamemBERT and ELECTRA keep the output beside the core; ALBERT inside it.
    SeparateLayout("query", "key", "value", ("dense", "../output.dense")),
    # DeBERTa-v2 and v3
    SeparateLayout("query_proj", "key_proj", "value_proj", ("../output.dense",)),
    # DistilBERT
    SeparateLayout("q_lin", "k_lin", "v_lin", ("out_lin",)),
    # T5, MPNet
    SeparateLayout("q", "k", "v", ("o",)),
    # Llama, Mistral, Qwen, Gemma and ViT (o_proj), OPT, BART and GPT-J (out_proj), Phi (dense)
    SeparateLayout("q_proj", "k_proj", "v_proj", ("o_proj", "out_proj", "dense")),
)

# Children of a decoder layer that attend to the encoder; a hint only, the probe looks at the inputs.
CROSS_ATTENTION_NAMES = frozenset({"EncDecAttention", "encoder_attn", "crossattention", "cross_attn"})

# Attributes in which attention modules keep the size of one head.
HEAD_DIM_ATTRIBUTES = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size")
