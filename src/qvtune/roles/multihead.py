"""torch's `nn.MultiheadAttention` as a module with a linear layer per role, and back again, bit for bit.

torch stores query, key and value in one parameter. It reads this parameter, and the output projection's, without
calling a layer, so nothing can be attached to any of them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from qvtune.roles.layouts import ROLES, Rows
from qvtune.roles.split import LOADED_MARK, Split, linear_from

OUTPUT = "out_proj"


def can_split(module: nn.Module) -> bool:
    """Whether a module is torch's attention in a form that `SplitMultihead` supports."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


class _CallTheModule(Tensor):
    """A tensor for which torch skips its own fast paths, as it does for every tensor with its own functions."""


class SplitMultihead(Split):
    """Computes what an `nn.MultiheadAttention` computes, with linear layers `query`, `key`, `value` and `out_proj`.

    Args:
        fused: the module to split. It is stored without its weights; `join` fills it again.
        keep: leave the weights in `fused` too, for a measurement after which the split module is discarded.
    """

    prefix = "in_proj_"

    def __init__(self, fused: Any, *, keep: bool = False) -> None:
        width = fused.embed_dim
        rows = {role: Rows(place * width, width) for place, role in enumerate("qkv")}
        super().__init__(fused, rows, is_loaded=getattr(fused.in_proj_weight, LOADED_MARK, False))
        self.num_heads, self.head_dim, self.dropout = fused.num_heads, fused.head_dim, fused.dropout
        self.embed_dim, self.batch_first = width, fused.batch_first
        self._qkv_same_embed_dim = True  # torch's Transformer layers read this first
        trainable = fused.in_proj_weight.requires_grad
        for role, part in self.rows.items():
            chosen = slice(part.start, part.start + part.size)
            bias = None if fused.in_proj_bias is None else fused.in_proj_bias.data[chosen].clone()
            self.add_module(ROLES[role], linear_from(fused.in_proj_weight.data[chosen].clone(), bias, trainable))
        self.add_module(OUTPUT, fused.out_proj)
        self._mark(self)
        self.train(fused.training)
        if not keep:
            fused.in_proj_weight = fused.in_proj_bias = fused.out_proj = None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output and, if asked for, the attention weights; arguments and shapes are torch's."""
        unbatched = query.dim() == 2
        if unbatched:
            query, key, value = (part.unsqueeze(0) for part in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        q, k, v = (
            self._modules[name](part).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # type: ignore[misc]
            for name, part in (("query", query), ("key", key), ("value", value))
        )
        mask = self._mask(q, k, attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = nn.functional.dropout(weights, dropout)
            context = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            context = nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        output = self._modules[OUTPUT](context.transpose(1, 2).flatten(2))  # type: ignore[misc]
        if unbatched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    @property
    def in_proj_weight(self) -> Tensor:
        """The stacked weights of query, key and value, (3 width, width), without adapters.

        torch's Transformer layers read it to compute attention themselves, which would bypass the adapters. A tensor of
        a special class, as here, makes them call the module instead.
        """
        return self._weight().as_subclass(_CallTheModule)

    @property
    def in_proj_bias(self) -> Tensor | None:
        """The concatenated biases of query, key and value, (3 width,), or None if they have none."""
        biases = [part.bias for part in self.parts.values()]
        return None if biases[0] is None else torch.cat(biases)

    def _weight(self) -> Tensor:
        return torch.cat([part.weight for part in self.parts.values()])

    def _fill(self, *, trainable: bool) -> None:
        self.fused.in_proj_weight = nn.Parameter(self._weight().detach(), requires_grad=trainable)
        if (bias := self.in_proj_bias) is not None:
            self.fused.in_proj_bias = nn.Parameter(bias.detach(), requires_grad=trainable)
        self.fused.out_proj = self._modules[OUTPUT]

    def _mask(self, q: Tensor, k: Tensor, attention: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """Return what to add to the scores, broadcastable to (batch, heads, queries, keys), or None."""
        masks = []
        if attention is not None:
            mask = _additive(attention, q.dtype)
            masks.append(mask.unflatten(0, (-1, self.num_heads)) if mask.dim() == 3 else mask)
        if padding is not None:
            masks.append(_additive(padding, q.dtype)[:, None, None, :])
        return sum(masks[1:], masks[0]) if masks else None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
    return mask.to(dtype)
