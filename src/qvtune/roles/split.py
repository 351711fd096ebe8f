"""Split a fused projection into one plain linear layer per role for training, and join it again bit for bit."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qvtune.roles.layouts import ROLES, Rows

LOADED_MARK = "_is_hf_initialized"

# Rows that belong to no role, such as a gate's: they have their own part, which never trains.
REST = "rest"
PART_NAMES = {**ROLES, REST: REST}


class Split(nn.Module):
    """A module with a linear layer per role, which replaces a module that holds the roles together.

    Args:
        fused: the module that it replaces. It is stored without its weights; `join` fills it again.
        rows: rows of its output by role, in their order.
        is_loaded: whether transformers read its weights from a checkpoint. transformers marks what it reads, and
            unmarked parameters count as a new head.
    """

    fused: Any

    # The prefix of "weight" and "bias" in the names of the fused module's parameters.
    prefix = ""
    # The name of each role's linear layer.
    names = PART_NAMES

    def __init__(self, fused: nn.Module, rows: dict[str, Rows], *, is_loaded: bool) -> None:
        super().__init__()
        self.rows = rows
        self._is_loaded = is_loaded
        # Not a child: it has no parameters, and nothing should visit it.
        object.__setattr__(self, "fused", fused)
        # A split model without adapters saves a checkpoint of the original shape, which loads into both forms.
        self.register_state_dict_post_hook(_join_state)
        self.register_load_state_dict_pre_hook(_split_state)

    @property
    def parts(self) -> dict[str, Any]:
        """The linear layers by role, in the order of their rows; adapters may wrap them."""
        return {role: self._modules[self.names[role]] for role in self.rows}

    def join(self) -> nn.Module:
        """Return the fused module with the weights of the parts."""
        self._fill(trainable=all(p.requires_grad for p in self.parameters()))
        self._mark(self.fused)
        return self.fused.train(self.training)

    def to_fused(self, state: dict[str, Tensor], prefix: str) -> None:
        """Replace the parts' weights and biases in a state dict by the fused ones."""
        for kind in ("weight", "bias"):
            keys = [f"{prefix}{self.names[role]}.{kind}" for role in self.rows]
            if all(key in state for key in keys):
                joined = self._joined([state.pop(key) for key in keys])
                transposed = kind == "weight" and isinstance(self.fused, Conv1D)
                state[f"{prefix}{self.prefix}{kind}"] = joined.T.contiguous() if transposed else joined

    def from_fused(self, state: dict[str, Tensor], prefix: str) -> None:
        """Replace the fused weight and bias in a state dict by those of the parts."""
        for kind in ("weight", "bias"):
            key = f"{prefix}{self.prefix}{kind}"
            if key in state:
                fused = state.pop(key)
                fused = fused.T if kind == "weight" and isinstance(self.fused, Conv1D) else fused
                for role, rows in self.rows.items():
                    index = torch.tensor(rows.indices(), device=fused.device)
                    state[f"{prefix}{self.names[role]}.{kind}"] = fused[index].contiguous()

    def _fill(self, *, trainable: bool) -> None:
        raise NotImplementedError

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Return rows of the parts in the order of the fused matrix."""
        joined = torch.cat(list(parts))
        return torch.empty_like(joined).index_copy(0, self.order(joined.device), joined)

    def order(self, device: torch.device) -> Tensor:
        """Return, for each row of the parts, its row in the fused matrix: (rows,)."""
        return torch.tensor([row for rows in self.rows.values() for row in rows.indices()], device=device)

    def _mark(self, module: nn.Module) -> None:
        if self._is_loaded:
            for parameter in module.parameters():
                setattr(parameter, LOADED_MARK, True)


class SplitProjection(Split):
    """Replaces a fused projection: it has a linear layer per role, and returns their outputs in the old order.

    Inputs are (..., inputs), and outputs (..., rows) in the fused module's order, so the code of the model around it
    stays the same.

    Args:
        fused: the linear layer, or transformers' `Conv1D`, to split. It is stored without its weights; `join` fills it
        again.
        rows: rows of its output by role; every row belongs to exactly one.
    """

    def __init__(self, fused: Any, rows: dict[str, Rows]) -> None:
        in_order = {role: rows[role] for role in sorted(rows, key=lambda role: rows[role].start)}
        super().__init__(fused, in_order, is_loaded=getattr(fused.weight, LOADED_MARK, False))
        self.runs = _interleaved_runs(list(self.rows.values()))
        weight = fused.weight.data.T if isinstance(fused, Conv1D) else fused.weight.data
        for role, part in self.rows.items():
            index = torch.tensor(part.indices(), device=weight.device)
            bias = None if fused.bias is None else fused.bias.data[index].clone()
            self.add_module(PART_NAMES[role], linear_from(weight[index].contiguous(), bias, fused.weight.requires_grad))
        self._mark(self)
        self.train(fused.training)
        fused.weight = None
        fused.bias = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what the fused module would return, (..., rows) for inputs (..., inputs)."""
        parts = [part(hidden) for part in self.parts.values()]
        if self.runs == 1:
            return torch.cat(parts, dim=-1)
        if self.runs > 1:
            return torch.cat([part.unflatten(-1, (self.runs, -1)) for part in parts], dim=-1).flatten(-2)
        joined = torch.cat(parts, dim=-1)
        return torch.empty_like(joined).index_copy(-1, self.order(joined.device), joined)

    @property
    def weight(self) -> Tensor:
        """The fused weight without adapters, (rows, inputs), or (inputs, rows) if the fused module stores it so."""
        joined = self._joined([part.weight for part in self.parts.values()])
        return joined.T.contiguous() if isinstance(self.fused, Conv1D) else joined

    @property
    def bias(self) -> Tensor | None:
        """The fused bias, (rows,), or None."""
        biases = [part.bias for part in self.parts.values()]
        return None if biases[0] is None else self._joined(biases)

    def _fill(self, *, trainable: bool) -> None:
        self.fused.weight = nn.Parameter(self.weight.detach(), requires_grad=trainable)
        bias = self.bias
        self.fused.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=trainable)

    def extra_repr(self) -> str:
        """Show how many rows each role has when the model is printed."""
        return ", ".join(f"{PART_NAMES[role]}: {len(part)} rows" for role, part in self.rows.items())


def _join_state(module: Split, state: dict[str, Tensor], prefix: str, local_metadata: Any) -> None:
    if all(type(part) is nn.Linear for part in module.parts.values()):  # no adapter wraps them
        module.to_fused(state, prefix)


def _split_state(module: Split, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    module.from_fused(state, prefix)


def _interleaved_runs(parts: list[Rows]) -> int:
    """Return the number of runs per part if the parts' runs alternate, or 0 if they do not."""
    runs = {part.repeats for part in parts}
    if len(runs) > 1:
        return 0
    rows = iter(range(sum(map(len, parts))))
    turns = [part.start + run * part.period for run in range(parts[0].repeats) for part in parts]
    sizes = [part.size for _ in range(parts[0].repeats) for part in parts]
    in_turn = all(next(rows) == start + row for start, size in zip(turns, sizes, strict=True) for row in range(size))
    return runs.pop() if in_turn else 0


def linear_from(weight: Tensor, bias: Tensor | None, trainable: bool) -> nn.Linear:
    """Return a linear layer with this weight, (rows, inputs), and bias."""
    with torch.device("meta"):  # so that no random numbers are drawn
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=trainable)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=trainable)
    return linear
