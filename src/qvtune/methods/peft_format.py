"""Adapters in PEFT's format: what they all share."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qvtune.errors import AdaptError
from qvtune.methods.files import WEIGHTS_FILE, other_weights, write_weights
from qvtune.methods.method import Adaptation
from qvtune.roles.fused import split_modules
from qvtune.roles.multihead import SplitMultihead
from qvtune.roles.unwrap import unwrap

# PEFT's prefix for the names of the model's own modules.
PREFIX = "base_model.model."


def check_multihead(adapted: nn.Module, adaptation: Adaptation) -> None:
    """Check that PEFT can compute the adapted parts of torch's attention.

    Raises:
        AdaptError: if it cannot.
    """
    if "o" in adaptation.roles and any(isinstance(m, SplitMultihead) for _, m in split_modules(unwrap(adapted))):
        raise AdaptError(
            "PEFT adds an adapter on the output projection of nn.MultiheadAttention twice, so one with role o would "
            "not give the same outputs there. Merge it with qvtune.restore(model), or train other roles."
        )


def check_experts(adaptation: Adaptation, inner: nn.Module) -> None:
    """Check that PEFT gives factors to the named parts of a model with experts, and not to the experts.

    In some types PEFT replaces names such as "shared_expert.up_proj" by all experts, for adapters from before
    transformers 5, and would do so again where the adapter is loaded.

    Raises:
        AdaptError: if it does; the text names the part and the experts.
    """
    attention = adaptation.attention
    parts = [p for layer in attention.feed_forward for p in layer.projections if p.role in adaptation.roles]
    if not parts or not attention.experts:
        return
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    names = {part.module for part in parts}
    config: Any = LoraConfig(target_modules=sorted(names))
    try:
        convert_peft_config_for_transformers(config, inner, None)
    except ValueError:  # it asks for the other parts of the experts
        config.target_modules = None
    if set(config.target_modules or ()) != names:
        raise AdaptError(
            f"PEFT takes '{parts[0].module}' for a part of the experts '{attention.experts[0].module}', so in model "
            f"type '{attention.model_type}' it has no low-rank factors for the feed-forward. Take a method without "
            "them, such as 'ia3' or 'full', or name roles of attention; the experts stay frozen in each case."
        )


def weight_names(module: str) -> tuple[str, str]:
    """Return PEFT's names of a module's factors A and B."""
    return f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"


def write_peft(peft_model: Any, config: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """Write an adapter with other tensors, or another configuration, than PEFT would."""
    config.inference_mode = True
    if config.base_model_name_or_path is None:
        config.base_model_name_or_path = getattr(unwrap(peft_model), "name_or_path", None)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    write_weights(weights, folder / WEIGHTS_FILE)


def fill_peft(adapted: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """Load these tensors into PEFT's layers and its copies of the head.

    Raises:
        ModelError: if a tensor is missing, has another shape or does not belong to this model; the text names it.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for name in wanted:
        if name not in weights:
            raise other_weights(folder, f"'{name}' is missing.")
    try:
        result: Any = set_peft_model_state_dict(adapted, weights)
    except RuntimeError as error:  # from torch, if shapes differ
        raise other_weights(folder, str(error).splitlines()[-1].strip()) from error
    if result.unexpected_keys:
        raise other_weights(folder, f"'{result.unexpected_keys[0]}'.")
