"""XLNet's attention as a module with a linear layer per role, and back again, bit for bit.

XLNet stores query, key, value and output as raw parameters of shape (width, heads, size of a head) and multiplies with
them by einsum, so nothing can be attached to any of them. Its parameter r gives the keys of relative positions. It
belongs to no role, and stays as it is.
"""

from typing import Any

import torch
from torch import Tensor, nn

from qvtune.roles.layouts import Rows
from qvtune.roles.split import LOADED_MARK, Split, linear_from


def is_relative(module: nn.Module | None) -> bool:
    """Whether a module is XLNet's attention."""
    return type(module).__name__ == "XLNetRelativeAttention"


def raw_size(module: Any, role: str) -> tuple[int, int]:
    """Return (rows, inputs) of the linear layer that equals the parameter of a role."""
    width, heads, size = getattr(module, role).shape
    return (width, heads * size) if role == "o" else (heads * size, width)


class SplitRelative(Split):
    """Computes what XLNet's attention computes, with linear layers instead of its parameters q, k, v and o.

    Args:
        fused: the module to split. It is stored without its weights; `join` fills it again.
        keep: leave the weights in `fused` too, for a measurement after which the split module is discarded.
    """

    # Beside the roles: the keys of relative positions, and what follows the output.
    r: Tensor
    layer_norm: nn.Module
    dropout: nn.Module

    names = {role: role for role in "qkvo"}  # a linear layer has the name of the parameter that it replaces

    def __init__(self, fused: Any, *, keep: bool = False) -> None:
        rows = {role: Rows(0, raw_size(fused, role)[0]) for role in "qkvo"}
        super().__init__(fused, rows, is_loaded=getattr(fused.q, LOADED_MARK, False))
        self.shape, self.scale, self.rel_shift_bnij = fused.q.shape, fused.scale, fused.rel_shift_bnij
        for role in self.rows:
            raw = getattr(fused, role)
            flat = raw.data.flatten(1)
            weight = flat.clone() if role == "o" else flat.T.contiguous()
            self.add_module(role, linear_from(weight, None, raw.requires_grad))
        self.train(fused.training)
        for name, parameter in fused._parameters.items():
            if name not in self.rows:
                self.register_parameter(name, parameter)
        for name, child in fused.named_children():
            self.add_module(name, child)
        self._mark(self)
        if not keep:
            fused._parameters.update(dict.fromkeys(fused._parameters))

    def forward(
        self,
        h: Tensor,
        g: Tensor | None,
        attn_mask_h: Tensor | None,
        attn_mask_g: Tensor | None,
        r: Tensor,
        seg_mat: Tensor | None,
        mems: Tensor | None = None,
        target_mapping: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Any, ...]:
        """Return both streams and, if asked for, the attention weights; arguments and shapes are XLNet's."""
        content = h if mems is None or mems.dim() < 2 else torch.cat([mems, h])
        key, value = self._heads("k", content), self._heads("v", content)
        position_key = torch.einsum("ibh,hnd->ibnd", r.type(self.r.dtype), self.r)
        outputs: list[Tensor | None] = []
        weights = []
        for stream, mask, mapping in ((h, attn_mask_h, None), (g, attn_mask_g, target_mapping)):
            if stream is None:
                outputs.append(None)
                continue
            query = self._heads("q", stream)
            if mapping is not None:
                query = torch.einsum("mbnd,mlb->lbnd", query, mapping)
            # XLNet's own code computes the product; this module has everything that the code reads.
            context = type(self.fused).rel_attn_core(
                self, query, key, value, position_key, seg_mat, mask, output_attentions
            )
            if output_attentions:
                context, weight = context
                weights.append(weight)
            if mapping is not None:
                context = torch.einsum("lbnd,mlb->mbnd", context, mapping)
            projected = self.parts["o"](context.flatten(2))
            outputs.append(self.layer_norm(self.dropout(projected) + stream))
        told = () if not output_attentions else (weights[0] if g is None else tuple(weights),)
        return (*outputs, *told)

    def raw(self, role: str, weight: Tensor) -> Tensor:
        """Return the weight of a linear layer in the shape of its role's parameter, (width, heads, size of a head)."""
        return (weight if role == "o" else weight.T).reshape(self.shape).contiguous()

    def to_fused(self, state: dict[str, Tensor], prefix: str) -> None:
        """Replace the linear layers' weights in a state dict by the raw parameters."""
        for role in self.rows:
            if (key := f"{prefix}{role}.weight") in state:
                state[f"{prefix}{role}"] = self.raw(role, state.pop(key))

    def from_fused(self, state: dict[str, Tensor], prefix: str) -> None:
        """Replace the raw parameters in a state dict by the linear layers' weights."""
        for role in self.rows:
            if (key := f"{prefix}{role}") in state:
                flat = state.pop(key).flatten(1)
                state[f"{key}.weight"] = (flat if role == "o" else flat.T).contiguous()

    def _heads(self, role: str, hidden: Tensor) -> Tensor:
        """Return the output of a role, (positions, batch, heads, size of a head)."""
        return self.parts[role](hidden).unflatten(-1, self.shape[1:])

    def _fill(self, *, trainable: bool) -> None:
        for role, part in self.parts.items():
            raw = self.raw(role, part.weight.detach())
            setattr(self.fused, role, nn.Parameter(raw, requires_grad=trainable))
        for name, parameter in self._parameters.items():
            setattr(self.fused, name, parameter)
