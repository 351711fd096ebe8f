"""`complete`: let a causal language model go on from prompts, always with its likeliest token."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from qvtune.device import device_of
from qvtune.roles.modes import evaluating
from qvtune.roles.unwrap import unwrap
from qvtune.tasks.causal.tokens import stop_tokens

Shown = Callable[[Iterable[Any], int], Iterable[Any]]


def complete(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    shown: Shown | None = None,
) -> list[list[int]]:
    """Return the tokens that a model adds to each prompt, in their order, without the token that ends an answer.

    Prompts of similar length are completed together, padded on the left, with a cache of keys and values. What a model
    suggests for generation, such as sampling or penalties, is not used.

    Args:
        model: a causal language model on its device, adapted or not.
        tokenizer: pads, and knows which tokens end an answer.
        prompts: token ids.
        max_new_tokens: most tokens to add.
        batch_size: prompts at a time.
        shown: takes batches and their number, yields the batches and shows the progress.
    """
    inner: Any = unwrap(model)
    stops = stop_tokens(tokenizer)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    found: list[list[int]] = [[] for _ in prompts]
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    )
    with evaluating(inner), torch.no_grad(), _generating_by(inner, settings):
        for batch in shown(batches, len(batches)) if shown else batches:
            ids, mask = _padded([prompts[i] for i in batch], int(tokenizer.pad_token_id), device_of(inner))
            written = inner.generate(input_ids=ids, attention_mask=mask)[:, ids.shape[1] :].tolist()
            for place, tokens in zip(batch, written, strict=True):
                end = next((number for number, token in enumerate(tokens) if token in stops), len(tokens))
                found[place] = tokens[:end]
    return found


def cut_prompts(
    prompts: Sequence[list[int]], positions: int | None, max_new_tokens: int
) -> tuple[list[list[int]], int]:
    """Cut the beginnings of prompts that leave no room for an answer in a model's positions, and count them."""
    if positions is None:
        return list(prompts), 0
    most = max(1, positions - max_new_tokens)
    return [prompt[-most:] for prompt in prompts], sum(len(prompt) > most for prompt in prompts)


def positions_of(model: nn.Module) -> int | None:
    """Return how many positions a model has, or None if they have no limit."""
    found = getattr(unwrap(model).config.get_text_config(), "max_position_embeddings", None)  # type: ignore[union-attr,operator]
    return found if isinstance(found, int) and found > 0 else None


def _padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[*[pad] * (longest - len(prompt)), *prompt] for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, (torch.arange(longest, device=device) >= longest - lengths[:, None]).long()


@contextmanager
def _generating_by(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """Let a model generate by these settings alone; given as an argument, its own would fill them up."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
