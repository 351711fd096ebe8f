"""Attention with dropout on a CPU, by kernels that store no matrix of probabilities, or by torch in few passes."""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from qvtune.fast.bits import INTEGERS, Drop, apply_mask, draw, is_drawn, keep_mask
from qvtune.fast.cpu.native.library import call, has_kernels

NAME = "qvtune"
# Up to this many keys, whole products are faster on a CPU than torch's blockwise attention.
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
    """Compute the same attention as transformers' "sdpa", in another way if that is slow.

    Args:
        module: the attention module, which says whether it is causal and how many query heads share a key head.
        query: (batch, heads, queries, head size).
        key: (batch, key heads, keys, head size).
        value: as `key`.
        attention_mask: boolean, true where a query may see a key, or numbers that are added to the scores; broadcast to
            (batch, heads, queries, keys).
        dropout: rate on the probabilities.
        scaling: factor of the scores; head size ** -0.5 when None.
        is_causal: whether a query sees no later key; the module's own value when None. Only without a mask.
        **kwargs: as for transformers.

    Returns:
        (batch, queries, heads, head size), and None for the probabilities.
    """
    if key.shape[1] > query.shape[1]:
        key, value = _by_head(key, query.shape[1]), _by_head(value, query.shape[1])
    on_cpu = query.device.type == "cpu"
    unusual = kwargs.get("position_bias") is not None or kwargs.get("cache") is not None or key.shape != value.shape
    if attention_mask is not None:
        unusual |= attention_mask.requires_grad or attention_mask.dim() != 4
    if not on_cpu or unusual or not (is_drawn(dropout) or (dropout == 0 and key.shape[2] <= SHORT)):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs
        )
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    is_causal = is_causal and attention_mask is None and query.shape[2] > 1
    scaling = scaling or query.shape[-1] ** -0.5
    if has_kernels(query, key, value):
        return Attended.apply(query, key, value, attention_mask, is_causal, scaling, draw(dropout)), None
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    bias = _bias(query, key, attention_mask, is_causal=is_causal)
    out = AttendedByTorch.apply(query, key, value, bias, scaling, draw(dropout))
    return out.transpose(1, 2).contiguous(), None


def register() -> None:
    """Register the implementation in transformers under `NAME`."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _by_head(states: Tensor, heads: int) -> Tensor:
    """Separate the keys of one query that its module has viewed as (batch, keys x heads, 1, head size)."""
    return states.view(len(states), -1, heads, states.shape[-1]).transpose(1, 2)


class Attended(Function):
    """softmax(scaling Q K^T + mask), dropped and rescaled, times V, by kernels.

    Beside the inputs, one number per query is saved for backward: the logsumexp of its scores.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        scaling: float,
        drop: Drop,
    ) -> Tensor:
        # (b, h, q, s), (b, g, k, s) -> (b, q, h, s)
        query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(query.dtype)
        ctx.numbers = _numbers(query, key, value, mask, is_causal=is_causal)
        ctx.scaling, ctx.drop = scaling, drop
        batch, heads, queries, size = query.shape
        out = query.new_empty(batch, queries, heads, size)
        logsumexp = query.new_empty(batch, heads, queries, dtype=torch.float32)
        call("attention", query.dtype, query, key, value, mask, ctx.numbers, scaling, out, logsumexp, *drop)
        ctx.save_for_backward(query, key, value, mask, logsumexp)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, logsumexp = ctx.saved_tensors
        # Positions come before heads, as in projections, so that no copy has to transpose them back.
        sizes = [(b, positions, heads, s) for b, heads, positions, s in (x.shape for x in (query, key, value))]
        of_query, of_key, of_value = map(query.new_empty, sizes)
        call(
            "attention_backward", query.dtype, query, key, value, mask, ctx.numbers, ctx.scaling,
            gradient.contiguous(), logsumexp, of_query, of_key, of_value, *ctx.drop,
        )  # fmt: skip
        return *(x.transpose(1, 2) for x in (of_query, of_key, of_value)), None, None, None, None


def _numbers(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, is_causal: bool) -> ctypes.Array[Any]:
    """Return strides and sizes in the order of `attention` in kernels.cpp."""
    strides = [0, 0, 0, 0]
    if mask is not None:
        strides = [0 if size == 1 else stride for size, stride in zip(mask.shape, mask.stride(), strict=True)]
    batch, heads, queries, size = query.shape
    numbers = [
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *strides,
        int(mask is not None and mask.dtype == torch.bool),
        batch, heads, heads // key.shape[1], queries, key.shape[2], size, int(is_causal),
    ]  # fmt: skip
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _bias(query: Tensor, key: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor | None:
    """Return the numbers to add to the scores."""
    if is_causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    if mask is None or mask.dtype != torch.bool:
        return None if mask is None else mask.to(query.dtype)
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)


class AttendedByTorch(Function):
    """The same as `Attended`, for (b, h, q, s) throughout, if there are no kernels.

    Beside the inputs, only the probabilities are saved for backward: the sign bit of each says whether it was dropped.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float, drop: Drop
    ) -> Tensor:
        query = query * scaling
        scores = query @ key.transpose(-1, -2)
        if bias is not None:
            scores += bias
        probabilities = torch.softmax(scores, dim=-1)
        ctx.drop, ctx.scaling = drop, scaling
        if not drop.below:
            ctx.save_for_backward(query, key, value, probabilities)
            return probabilities @ value
        keep = keep_mask(probabilities.shape, drop)
        out = (apply_mask(probabilities, keep) @ value).mul_(drop.scale)
        integer = INTEGERS[probabilities.element_size()]
        signed = probabilities.view(integer)
        signed |= keep.bitwise_not_().to(integer).bitwise_and_(torch.iinfo(integer).min)
        ctx.save_for_backward(query, key, value, signed)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, probabilities = ctx.saved_tensors
        if ctx.drop.below:
            signed = probabilities
            gradient = gradient * ctx.drop.scale
            probabilities = signed.view(query.dtype).abs()
            keep = signed.bitwise_right_shift(8 * signed.element_size() - 1).bitwise_not_()
        grad_probabilities = gradient @ value.transpose(-1, -2)
        dropped = probabilities
        if ctx.drop.below:
            dropped = apply_mask(probabilities, keep)
            grad_probabilities = apply_mask(grad_probabilities, keep)
        grad_value = dropped.transpose(-1, -2) @ gradient if ctx.needs_input_grad[2] else None
        grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, query.dtype)
        grad_query = (grad_scores @ key).mul_(ctx.scaling) if ctx.needs_input_grad[0] else None
        grad_key = grad_scores.transpose(-1, -2) @ query if ctx.needs_input_grad[1] else None
        return grad_query, grad_key, grad_value, None, None, None
