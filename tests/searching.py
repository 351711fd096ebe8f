"""A tiny adapted BERT, with dropout of its own, and batches that it can learn."""

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import qvtune


def tiny_model(noise: float = 0.1, **adapting: object) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dropout_prob=noise,
        attention_probs_dropout_prob=noise,
    )
    return qvtune.adapt(BertForSequenceClassification(config), **{"rank": 4} | adapting)


def make_batches(number: int, seed: int = 3, size: int = 8) -> list[dict]:
    """Batches whose label is whether token 7 occurs."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(number):
        ids = torch.randint(8, 40, (size, 10), generator=generator)
        labels = torch.randint(0, 2, (size,), generator=generator)
        ids[:, 3:7] = torch.where(labels[:, None] == 1, 7, ids[:, 3:7])
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return batches
