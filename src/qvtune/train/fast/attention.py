"""Attention with dropout on a CPU, in few passes and with one tensor kept for backward."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from qvtune.train.fast.bits import INTEGERS, apply_mask, is_drawn, keep_mask, realized

NAME = "qvtune"
# Keys up to which whole products are faster on a CPU than torch's blockwise attention.
SHORT = 192


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention as transformers' "sdpa" does, with another way of computing it where that is slow.

    Args:
        module: the attention module, which says whether it is causal and how many query heads share a key head.
        query: (batch, heads, queries, head size).
        key: (batch, key heads, keys, head size).
        value: as `key`.
        attention_mask: boolean, true where a query may see a key, or added to the scores; broadcast to (batch,
            heads, queries, keys).
        dropout: rate on the probabilities.
        scaling: of the scores, head size ** -0.5 when None.
        is_causal: a query sees no later key; the module's own when None. Only without a mask.
        **kwargs: as for transformers.

    Returns:
        (batch, queries, heads, head size), and None for the probabilities.
    """
    if key.shape[1] > query.shape[1]:
        key, value = _by_head(key, query.shape[1]), _by_head(value, query.shape[1])
    on_cpu = query.device.type == "cpu"
    trains_mask = attention_mask is not None and attention_mask.requires_grad
    unusual = trains_mask or kwargs.get("position_bias") is not None or kwargs.get("cache") is not None
    if not on_cpu or unusual or not (is_drawn(dropout) or (dropout == 0 and key.shape[2] <= SHORT)):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs
        )
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    bias = _bias(query, key, attention_mask, is_causal=is_causal)
    out = Attended.apply(query, key, value, bias, scaling or query.shape[-1] ** -0.5, dropout)
    return out.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make the implementation known to transformers under `NAME`."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _by_head(states: Tensor, heads: int) -> Tensor:
    """Take apart keys of one query that its module has viewed as (batch, keys x heads, 1, head size)."""
    return states.view(len(states), -1, heads, states.shape[-1]).transpose(1, 2)


def _bias(query: Tensor, key: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor | None:
    """Return what is added to the scores."""
    queries, keys = query.shape[2], key.shape[2]
    if mask is None:
        if not is_causal or queries == 1:
            return None
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril()
    if mask.dtype != torch.bool:
        return mask.to(query.dtype)
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)


class Attended(Function):
    """softmax(scaling Q K^T + bias), dropped and rescaled, times V.

    Kept for backward beside the inputs are the probabilities alone: the sign bit of each says whether it was dropped.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float, rate: float
    ) -> Tensor:
        query = query * scaling
        scores = query @ key.transpose(-1, -2)
        if bias is not None:
            scores += bias
        probabilities = torch.softmax(scores, dim=-1)
        ctx.rate, ctx.scaling = realized(rate), scaling
        if not rate:
            ctx.save_for_backward(query, key, value, probabilities)
            return probabilities @ value
        keep = keep_mask(probabilities.shape, rate)
        out = (apply_mask(probabilities, keep) @ value).mul_(1 / (1 - ctx.rate))
        integer = INTEGERS[probabilities.element_size()]
        signed = probabilities.view(integer)
        signed |= keep.bitwise_not_().to(integer).bitwise_and_(torch.iinfo(integer).min)
        ctx.save_for_backward(query, key, value, signed)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, kept = ctx.saved_tensors
        probabilities = kept
        if ctx.rate:
            gradient = gradient * (1 / (1 - ctx.rate))
            probabilities = kept.view(query.dtype).abs()
            keep = kept.bitwise_right_shift(8 * kept.element_size() - 1).bitwise_not_()
        grad_probabilities = gradient @ value.transpose(-1, -2)
        dropped = probabilities
        if ctx.rate:
            dropped = apply_mask(probabilities, keep)
            grad_probabilities = apply_mask(grad_probabilities, keep)
        grad_value = dropped.transpose(-1, -2) @ gradient if ctx.needs_input_grad[2] else None
        grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, query.dtype)
        grad_query = (grad_scores @ key).mul_(ctx.scaling) if ctx.needs_input_grad[0] else None
        grad_key = grad_scores.transpose(-1, -2) @ query if ctx.needs_input_grad[1] else None
        return grad_query, grad_key, grad_value, None, None, None
