"""EVA: LoRA whose A starts as the directions in which a projection's inputs vary most (Paischer et al. 2024)."""

from typing import Any

import torch
from torch import Tensor, nn

from qvtune.errors import AdaptError
from qvtune.methods.method import Adaptation, Batches
from qvtune.roles.unwrap import unwrap


def start_eva(adapted: nn.Module, adaptation: Adaptation, batches: Batches) -> None:
    """Set every A to the first right-singular vectors of its inputs over the batches, without padding.

    Every projection keeps `rank` (ρ = 1 in the paper), so that its λ and its place in an optimizer stay. PEFT computes
    the vectors one batch at a time, and repeats the batches until the vectors converge.

    Raises:
        AdaptError: for a batch with fewer tokens than the rank.
    """
    from peft import LoraConfig
    from peft.tuners.lora.config import EvaConfig
    from peft.tuners.lora.eva import get_eva_state_dict

    rank = adaptation.rank or 0
    inputs = [{name: value for name, value in batch.items() if name != "labels"} for batch in batches]
    for batch in inputs:
        tokens = int(_mask(batch).sum())
        if tokens <= rank:
            raise AdaptError(
                f"eva finds {rank} directions in batches of more tokens, and one has {tokens}. Give larger ones."
            )
    config = LoraConfig(
        r=rank, init_lora_weights="eva", eva_config=EvaConfig(rho=1.0), target_modules=adaptation.targets
    )
    model: Any = adapted
    state = get_eva_state_dict(
        model,
        inputs,
        peft_config=config,
        prepare_model_inputs_fn=lambda batch, _: _mask(batch),
        prepare_layer_inputs_fn=_kept,
        gather_distributed_inputs=False,
        show_progress_bar=False,
    )
    found = {name.removeprefix("base_model.model."): vectors for name, vectors in state.items()}
    for name in adaptation.targets:
        layer: Any = unwrap(adapted).get_submodule(name)
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(found[name])


def _mask(batch: Any) -> Tensor:
    mask = batch.get("attention_mask")
    return torch.ones_like(next(iter(batch.values()))) if mask is None else mask


def _kept(layer_input: Any, mask: Tensor, name: str) -> Tensor:
    """Return the inputs (tokens, width) without padding; all inputs if the positions are not the batch's."""
    states = layer_input[0] if isinstance(layer_input, (tuple, list)) else layer_input
    if states.shape[:-1] == mask.shape:
        return states[mask.bool()]
    return states.flatten(0, -2)
