"""What the suite trains: a tiny random BERT with LoRA on query and value, made-up batches, and the rates it expects."""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from qvtune.adaptation import adapt
from qvtune.groups import param_groups

LR, LR_RATIO, HEAD_LR, WEIGHT_DECAY = 1e-2, 4.0, 3e-3, 0.1
LAYERS, WIDTH, WORDS, LENGTH = 3, 16, 50, 10

Batch = dict[str, Tensor]


def make_model(seed: int = 0) -> nn.Module:
    """Return an adapted model on the CPU, in float32, none of whose trained parameters is zero."""
    return copy.deepcopy(_model(seed))


@cache
def _model(seed: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    others: dict[str, Any] = {"num_labels": 3, "attn_implementation": "eager"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=WORDS,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=2 * WIDTH,
            max_position_embeddings=2 * LENGTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **others,
        )
        adapted = adapt(BertForSequenceClassification(config), roles="qv", rank=4, alpha=4, dropout=0.0)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0.0, 0.3)
    return adapted


def make_groups(model: nn.Module, weight_decay: float = WEIGHT_DECAY) -> list[dict[str, Any]]:
    """Return the groups of the suite's rates."""
    return param_groups(model, lr=LR, lr_ratio=LR_RATIO, head_lr=HEAD_LR, weight_decay=weight_decay)


def expected_rate(name: str) -> float:
    """Return the rate that a trained parameter of this BERT has, by its name; `param_groups` is not asked."""
    if ".value." in name:
        return LR * LR_RATIO
    return LR if ".query." in name else HEAD_LR


def expected_decay(name: str) -> float:
    """Return the weight decay that a trained parameter has: none for a bias."""
    return 0.0 if name.endswith("bias") else WEIGHT_DECAY


def make_batch(index: int, rows: int) -> Batch:
    """Return a batch of made-up texts of different lengths with labels; the same for the same index."""
    generator = torch.Generator().manual_seed(1000 + index)
    ids = torch.randint(5, WORDS, (rows, LENGTH), generator=generator)
    lengths = torch.randint(3, LENGTH + 1, (rows, 1), generator=generator)
    mask = (torch.arange(LENGTH) < lengths).long()
    labels = torch.randint(0, 3, (rows,), generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def part(batch: Batch, rows: slice) -> Batch:
    """Return some rows of a batch."""
    return {name: tensor[rows] for name, tensor in batch.items()}
