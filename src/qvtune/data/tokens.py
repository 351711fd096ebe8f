"""Tokenise once: token ids are cached by the content of the texts, the tokenizer and the length limit."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from qvtune.cache import cached_file

FORMAT = "1"
MADE = "tokens.arrow"


def tokenize(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Replace `text` (and `text_pair`) by the tokenizer's columns, and `label` by `labels`.

    Args:
        dataset: with the columns of `TextData`; `label` may be absent.
        tokenizer: adds its own special tokens; no padding here.
        max_length: most tokens per example; if there are two texts, the longer one is cut first.

    Returns:
        A data set with `input_ids`, `attention_mask` where the tokenizer gives one, and `labels`.
    """
    pair = "text_pair" in dataset.column_names
    texts = [dataset["text"][:]] + ([dataset["text_pair"][:]] if pair else [])
    key = _key(texts, tokenizer, max_length)
    plain = dataset.select_columns(["text", "text_pair"] if pair else ["text"])

    def make(folder: Path | None) -> Dataset:
        return plain.map(
            _tokenize_batch,
            batched=True,
            fn_kwargs={"tokenizer": tokenizer, "max_length": max_length},
            remove_columns=plain.column_names,
            cache_file_name=str(folder / MADE) if folder else None,
            keep_in_memory=folder is None,
            new_fingerprint=key[:32],
            load_from_cache_file=False,
            desc="Tokenizing",
        )

    def write(folder: Path) -> Path:
        make(folder)
        return folder / MADE

    path = cached_file("tokens", key, ".arrow", write)
    tokens = make(None) if path is None else Dataset.from_file(str(path))
    return tokens.add_column("labels", dataset["label"][:]) if "label" in dataset.column_names else tokens


def token_lengths(tokens: Dataset) -> np.ndarray:
    """Return the number of tokens of every example."""
    return pc.list_value_length(_ids(tokens)).to_numpy(zero_copy_only=False)


def unknown_share(tokens: Dataset, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the share of the tokenizer's unknown token among all tokens except special ones."""
    ids = _ids(tokens).flatten().to_numpy(zero_copy_only=False)
    special = [token for token in tokenizer.all_special_ids if token != tokenizer.unk_token_id]
    words = ids[~np.isin(ids, special)]
    return float((words == tokenizer.unk_token_id).mean()) if words.size else 0.0


def count_cut(tokens: Dataset, max_length: int) -> int:
    """Count the examples that fill `max_length`; nearly all of them were cut."""
    return int((token_lengths(tokens) >= max_length).sum())


def _ids(tokens: Dataset) -> Any:
    """Return the token ids of all examples as one Arrow array of lists."""
    return tokens.with_format("arrow")["input_ids"].combine_chunks()


def _tokenize_batch(batch: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, Any]:
    encoded = dict(tokenizer(batch["text"], batch.get("text_pair"), truncation=True, max_length=max_length))
    # A tokenizer without special tokens gives no tokens for an empty text, and a model needs at least one.
    for index, ids in enumerate(encoded["input_ids"]):
        if not ids:
            for name, values in encoded.items():
                values[index] = [_filler(tokenizer) if name == "input_ids" else int(name == "attention_mask")]
    return encoded


def _filler(tokenizer: PreTrainedTokenizerBase) -> int:
    candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0)
    return next(int(token) for token in candidates if token is not None)


def _key(texts: Iterable[list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    digest = hashlib.sha256(f"{FORMAT} {type(tokenizer).__name__} {max_length} ".encode())
    digest.update(_tokenizer_content(tokenizer).encode())
    for column in texts:
        digest.update(f"column of {len(column)} ".encode())
        for text in column:
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(f"{len(raw)} ".encode())
            digest.update(raw)
    return digest.hexdigest()


def _tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> str:
    settings = f"{tokenizer.truncation_side} {tokenizer.model_input_names} {_filler(tokenizer)}"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Every call writes its own limits into the backend; they are not part of the tokenizer's identity.
        content = {**json.loads(backend.to_str()), "truncation": None, "padding": None}
        return f"{settings} {json.dumps(content)}"
    vocabulary = sorted(tokenizer.get_vocab().items())
    return f"{settings} {tokenizer.name_or_path} {vocabulary} {tokenizer.init_kwargs}"
