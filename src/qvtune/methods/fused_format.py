"""LoRA on parts of a fused module, in PEFT's format: one LoRA of the whole module, or of XLNet's parameters.

With rank r and n trained roles, the roles' A are stacked to (n r, inputs). B is (rows, n r), with a block per role and
zero rows for roles that did not train. The scale stays.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qvtune.errors import ModelError
from qvtune.methods.adapted import Factors
from qvtune.methods.method import Adaptation
from qvtune.methods.peft_format import PREFIX, weight_names
from qvtune.roles.fused import split_modules
from qvtune.roles.multihead import OUTPUT, SplitMultihead
from qvtune.roles.relative import SplitRelative
from qvtune.roles.split import PART_NAMES, Split
from qvtune.roles.unwrap import base_layer, unwrap

# PEFT's name for DoRA's norms.
MAGNITUDE = "lora_magnitude_vector"


def fuse(inner: nn.Module, config: Any, weights: dict[str, Tensor], adaptation: Adaptation) -> dict[str, Tensor]:
    """Return the factors of split modules as factors of whole modules, and adapt the configuration to them."""
    fused = dict(split_modules(inner))
    raw = {name: module for name, module in fused.items() if isinstance(module, SplitRelative)}
    if raw:
        return _fuse_raw(config, weights, raw)
    # PEFT adapts torch's attention as a whole, including the output projection.
    inside = {f"{name}.{OUTPUT}" for name, module in fused.items() if isinstance(module, SplitMultihead)}
    targets = {projection.module for projection in adaptation.projections} - inside | set(fused)
    ranks: dict[str, int] = {}
    for name, module in fused.items():
        factors = _take_factors(name, module, weights)
        ranks[name] = len(factors)
        if isinstance(module, SplitMultihead):
            weights |= _multihead_weights(name, module, factors, ranks[name] * config.r)
        else:
            weights |= _named(name, _stack(module, factors))
        if config.use_dora:
            weights |= _magnitudes(name, module, weights)
    parts = set(ranks.values())
    config.target_modules = targets
    config.fan_in_fan_out = any(isinstance(module.fused, Conv1D) for module in fused.values())
    if len(parts) == 1 and targets == set(ranks):
        count = parts.pop()
        config.r, config.lora_alpha = count * config.r, _more(config, count) * config.lora_alpha
    else:
        config.rank_pattern = {name: count * config.r for name, count in ranks.items()}
        config.alpha_pattern = {name: _more(config, count) * config.lora_alpha for name, count in ranks.items()}
    return weights


def take_apart(adapted: nn.Module, weights: dict[str, Tensor], rank: int, folder: Path) -> None:
    """Replace the factors of whole modules by those of the roles of split modules, each of this rank.

    Raises:
        ModelError: if a module has none; the text names it.
    """
    for name, module in split_modules(unwrap(adapted)):
        if isinstance(module, SplitRelative):
            for wrapper in _nested(name, len(module.rows)):  # written only for PEFT, beside the factors
                for key in weight_names(wrapper):
                    weights.pop(key, None)
            continue
        keys = weight_names(name)
        if not all(key in weights for key in keys):
            raise ModelError(f"{folder}: the adapter has no weights for '{name}'.")
        a, b = (weights.pop(key) for key in keys)
        norms = weights.pop(f"{PREFIX}{name}.{MAGNITUDE}", None)
        trained = [role for role, part in module.parts.items() if hasattr(part, "lora_A")]
        for place, role in enumerate(trained):
            columns, rows = slice(place * rank, (place + 1) * rank), torch.tensor(module.rows[role].indices())
            path = f"{name}.{PART_NAMES[role]}"
            weights |= _named(path, (a[columns], b[rows, columns]))
            if norms is not None:
                weights[f"{PREFIX}{path}.{MAGNITUDE}"] = norms[rows]
        if isinstance(module, SplitMultihead):
            for key in weight_names(f"{name}.base_layer.{OUTPUT}"):  # zeros, written only for PEFT
                weights.pop(key, None)


def _take_factors(name: str, module: Split, weights: dict[str, Tensor]) -> dict[str, Factors]:
    """Remove the factors of a module's roles from the weights, and return them by role."""
    found = {}
    for role in module.rows:
        first, second = weight_names(f"{name}.{PART_NAMES[role]}")
        if first in weights:
            found[role] = (weights.pop(first), weights.pop(second))
    return found


def _more(config: Any, count: int) -> float:
    """Return the factor of alpha that keeps the scale when the rank is multiplied by `count`."""
    return count**0.5 if config.use_rslora else count


def _magnitudes(name: str, module: Split, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return DoRA's norms of the fused module's rows: the trained norms, and for other rows the weight's own norms."""
    norms = torch.cat([torch.linalg.norm(base_layer(part).weight.detach(), dim=1) for part in module.parts.values()])
    found = torch.empty_like(norms).index_copy(0, module.order(norms.device), norms)
    for role, rows in module.rows.items():
        own = weights.pop(f"{PREFIX}{name}.{PART_NAMES[role]}.{MAGNITUDE}", None)
        if own is not None:
            found[torch.tensor(rows.indices(), device=found.device)] = own.to(found)
    return {f"{PREFIX}{name}.{MAGNITUDE}": found}


def _fuse_raw(config: Any, weights: dict[str, Tensor], fused: dict[str, SplitRelative]) -> dict[str, Tensor]:
    """Add the adapters on XLNet's parameters in PEFT's form for parameters, beside the factors that are read back.

    PEFT reads a parameter W (e, n, d) as e matrices, each with its own factors. With e inputs, n heads of size d, rank
    n and B the identity, A is the whole change.
    """
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    config.target_parameters, config.use_rslora = [], False
    for name, module in fused.items():
        width, heads, _ = module.shape
        trained = [role for role, part in module.parts.items() if hasattr(part, "lora_A")]
        # PEFT wraps the module once for each parameter; the last is the outermost.
        for place, role in zip(_nested(name, len(trained)), reversed(trained), strict=True):
            a, b = (weights[key] for key in weight_names(f"{name}.{role}"))
            change = module.raw(role, scale * b @ a)
            weights |= _named(place, (change.flatten(0, 1), torch.eye(heads).repeat_interleave(width, dim=1)))
            config.target_parameters.append(f"{name}.{role}")
        config.r = config.lora_alpha = heads
    config.target_modules, config.lora_dropout = [], 0.0  # PEFT has no dropout on parameters
    return weights


def _nested(name: str, count: int) -> list[str]:
    """List the names of `count` wrappers around a module, the outermost first."""
    return [name + ".base_layer" * depth for depth in range(count)]


def _multihead_weights(name: str, module: SplitMultihead, factors: dict[str, Factors], rank: int) -> dict[str, Tensor]:
    """Return PEFT's adapter of a whole `nn.MultiheadAttention`, with zeros for roles that did not train."""
    width = module.embed_dim
    output = (torch.zeros(rank, width), torch.zeros(width, rank))
    return _named(name, _stack(module, factors)) | _named(f"{name}.base_layer.{OUTPUT}", output)


def _named(name: str, factors: Factors) -> dict[str, Tensor]:
    return dict(zip(weight_names(name), factors, strict=True))


def _stack(module: Split, factors: dict[str, Factors]) -> Factors:
    """Return A (n r, inputs) and B (rows, n r) of the fused module from the factors of its roles."""
    a = torch.cat([first for first, _ in factors.values()])
    b = a.new_zeros(sum(len(rows) for rows in module.rows.values()), len(a))
    column = 0
    for role, (_, second) in factors.items():
        rank = second.shape[1]
        b[torch.tensor(module.rows[role].indices(), device=b.device), column : column + rank] = second
        column += rank
    return a, b
