"""First factors for LoRA other than zero, and the matching changes of the weights.

PEFT has these methods too. But its OLoRA confuses rows and columns of transformers' `Conv1D`, its LoftQ needs a GPU and
assumes a scale of 1, and none of them stores the original weights. Those are needed to load adapters on the unchanged
model.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qvtune.errors import ModelError
from qvtune.methods.adapted import Factors, record_of
from qvtune.methods.method import Adaptation
from qvtune.methods.peft_format import weight_names
from qvtune.roles.unwrap import unwrap

ADAPTER = "default"


def start_pissa(adapted: nn.Module, adaptation: Adaptation) -> None:
    """Start at the largest singular directions: B A = U S V', first `rank` (PiSSA, Meng et al. 2024, eq. 2 to 4)."""

    def factors(weight: Tensor, rank: int, scale: float) -> Factors:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        root = (s[:rank] / scale).sqrt()
        return root[:, None] * vh[:rank], u[:, :rank] * root

    _start(adapted, adaptation, factors)


def start_olora(adapted: nn.Module, adaptation: Adaptation) -> None:
    """Start at W = Q R: B is Q's first columns, A R's first rows (OLoRA, Büyükakyüz 2024, eq. 3)."""

    def factors(weight: Tensor, rank: int, scale: float) -> Factors:
        q, r = torch.linalg.qr(weight)
        return r[:rank].contiguous(), q[:, :rank].contiguous()

    _start(adapted, adaptation, factors)


def start_loftq(adapted: nn.Module, adaptation: Adaptation) -> None:
    """Round the weights to 4 bits (NF4), and let B A be the best approximation of its rank to the rounding error.

    LoftQ (Li et al. 2023), one pass of algorithm 1; the weights stay floats, with 16 values per block of 64.
    """

    def factors(weight: Tensor, rank: int, scale: float) -> Factors:
        u, s, vh = torch.linalg.svd(weight - quantised(weight), full_matrices=False)
        root = (s[:rank] / scale).sqrt()
        return root[:, None] * vh[:rank], u[:, :rank] * root

    _start(adapted, adaptation, factors, keep=False)


def begin_at(adapted: nn.Module, adaptation: Adaptation, factors: dict[str, Factors]) -> None:
    """Change the weights as for the training of a loaded adapter: subtract these factors, or round to 4 bits."""
    weights = {}
    for name, layer in _layers(adapted, adaptation):
        base = layer.get_base_layer()
        weights[f"{name}.weight"] = base.weight.data
        weight = _turned(base, base.weight.data).float()
        if factors:
            a, b = factors[name]
            rest = weight - layer.scaling[ADAPTER] * b.to(weight) @ a.to(weight)
        else:
            rest = quantised(weight)
        base.weight.data = _turned(base, rest).to(base.weight.dtype).contiguous()
    record = record_of(adapted)
    assert record is not None, "what has adapters to start is adapted"
    record.weights, record.factors = weights, factors


def less_start(weights: dict[str, Tensor], factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Return factors of B A - B0 A0, which is the change of the original weights, from before A0 and B0."""
    weights = dict(weights)
    for name, (a, b) in factors.items():
        first, second = weight_names(name)
        weights[first] = torch.cat([weights[first], a.to(weights[first])])
        weights[second] = torch.cat([weights[second], -b.to(weights[second])], dim=1)
    return weights


def take_start(weights: dict[str, Tensor], adaptation: Adaptation, folder: Path) -> dict[str, Factors]:
    """Remove the factors at the start of training from the weights that `less_start` returned, and return them.

    Raises:
        ModelError: if a module has none; the text names it.
    """
    found = {}
    for name in adaptation.targets:
        first, second = weight_names(name)
        if first not in weights or second not in weights:
            raise ModelError(f"{folder}: the adapter has no weights for '{name}'.")
        weights[first], a = weights[first].chunk(2)
        weights[second], b = weights[second].chunk(2, dim=1)
        found[name] = (a, -b)
    return found


def quantised(weight: Tensor) -> Tensor:
    """Return a weight rounded to 4 bits (NF4, blocks of 64), in float32."""
    functional = load_bitsandbytes()
    # In one row, since on a CPU bitsandbytes confuses the blocks of matrices narrower than a block.
    packed, state = functional.quantize_4bit(weight.float().flatten(), blocksize=64, quant_type="nf4")
    return functional.dequantize_4bit(packed, state).view(weight.shape).float()


def load_bitsandbytes() -> Any:
    """Import the functions that make 4-bit weights."""
    # It warns that kernels for its other uses are not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes.functional

    return bitsandbytes.functional


def _start(
    adapted: nn.Module, adaptation: Adaptation, decompose: Callable[[Tensor, int, float], Factors], keep: bool = True
) -> None:
    found = {}
    for name, layer in _layers(adapted, adaptation):
        base = layer.get_base_layer()
        weight = _turned(base, base.weight.data).float()
        a, b = decompose(weight, layer.r[ADAPTER], layer.scaling[ADAPTER])
        for factor, values in ((layer.lora_A, a), (layer.lora_B, b)):
            factor[ADAPTER].weight.data.copy_(values)
        found[name] = (a.clone(), b.clone())
    begin_at(adapted, adaptation, found if keep else {})


def _layers(adapted: nn.Module, adaptation: Adaptation) -> list[tuple[str, Any]]:
    inner = unwrap(adapted)
    return [(name, inner.get_submodule(name)) for name in adaptation.targets]


def _turned(base: nn.Module, weight: Tensor) -> Tensor:
    """Transpose a weight between the module's own shape and (rows, inputs), if they differ."""
    return weight.T if isinstance(base, Conv1D) else weight
