"""A tiny random BERT and a tiny Llama with tokenizers, saved as folders, and a table of made-up reviews."""

import csv
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

GOOD = ["good", "fine", "lovely", "bright", "warm"]
BAD = ["bad", "poor", "awful", "dull", "cold"]
OTHER = ["the", "a", "film", "plot", "cast", "music", "is", "was", "and", "very", "quite", "here"]
DECODER_WORDS = ["<unk>", "<s>", "</s>", *GOOD, *BAD, *OTHER]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save_tiny_bert(folder: Path, *, layers: int = 2, width: int = 32) -> Path:
    torch.manual_seed(1)
    vocabulary = {word: i for i, word in enumerate(SPECIAL + GOOD + BAD + OTHER)}
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    return folder


def tiny_llama_config() -> LlamaConfig:
    """Two query heads share a key and a value: the query is 32 x 32, key and value are 16 x 32."""
    return LlamaConfig(
        vocab_size=len(DECODER_WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
    )


def save_tiny_llama(folder: Path) -> Path:
    """A decoder whose tokenizer names no padding token."""
    torch.manual_seed(2)
    LlamaModel(tiny_llama_config()).save_pretrained(folder)
    return _save_decoder_tokenizer(folder)


def save_tiny_gpt2(folder: Path) -> Path:
    """A decoder with query, key and value in one matrix."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(DECODER_WORDS), n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    )
    GPT2Model(config).save_pretrained(folder)
    return _save_decoder_tokenizer(folder)


def _save_decoder_tokenizer(folder: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(DECODER_WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


def make_reviews(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of 3 to 12 words with a clear majority of good or bad ones, and their label."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        words, label = (GOOD, "positive") if index % 2 else (BAD, "negative")
        text = [*generator.choice(words, 2), *generator.choice(OTHER, generator.integers(1, 11))]
        rows.append((" ".join(generator.permutation(text)), label))
    return rows


def write_reviews(path: Path, count: int = 80, seed: int = 0) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(make_reviews(count, seed))
    return path
