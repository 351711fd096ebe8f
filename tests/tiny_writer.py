"""Tiny random decoders that write, with a tokenizer of bytes, and conversations that they can learn by heart."""

import json
from pathlib import Path
from typing import Any

import torch
from chat_templates import CHATML, byte_tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Phi3Config, PreTrainedConfig

COLOURS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red", "sky": "blue", "sun": "gold"}


def save_writer(
    folder: Path, kind: str = "llama", *, template: str | None = CHATML, eos: str = "<|im_end|>", positions: int = 256
) -> Path:
    """Save a decoder of width 48 and its tokenizer."""
    torch.manual_seed(4)
    tokenizer = byte_tokenizer(template, bos=None, eos=eos)
    own: dict[str, Any] = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    same = own | {
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 96, "max_position_embeddings": positions, "pad_token_id": 0, "initializer_range": 0.3,
    }  # fmt: skip
    configs: dict[str, PreTrainedConfig] = {
        "llama": LlamaConfig(**same, tie_word_embeddings=True),
        "phi3": Phi3Config(**same, resid_pdrop=0.0, embd_pdrop=0.0),
        "gpt2": GPT2Config(**own, n_embd=48, n_layer=2, n_head=4, n_positions=positions, initializer_range=0.3),
    }
    AutoModelForCausalLM.from_config(configs[kind]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def talks(count: int) -> list[dict[str, Any]]:
    """Conversations of a question about a colour and its answer."""
    rows = []
    for number in range(count):
        thing, colour = list(COLOURS.items())[number % len(COLOURS)]
        asked = [f"Colour of {thing}?", f"What is {thing} like?"][number // len(COLOURS) % 2]
        said = (("user", asked), ("assistant", f"It is {colour}."))
        rows.append({"messages": [{"role": role, "content": words} for role, words in said]})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
