"""PEFT's configuration of each method that PEFT has."""

from typing import Any

from qvtune.errors import AdaptError
from qvtune.methods.method import Adaptation

# AdaLoRA starts with so many times the rank that it ends with on average (Zhang et al. 2023, section 4).
INITIAL_RANK = 1.5


def lora(common: dict[str, Any], adaptation: Adaptation, total_steps: int | None, **kind: Any) -> Any:
    """Return LoRA's (Hu et al. 2021); `kind` makes it DoRA (Liu et al. 2024) or rsLoRA (Kalajdzievski 2023)."""
    from peft import LoraConfig

    options: dict[str, Any] = {"r": adaptation.rank, "lora_alpha": adaptation.alpha, "lora_dropout": adaptation.dropout}
    return LoraConfig(**common, **options, **kind)


def adalora(common: dict[str, Any], adaptation: Adaptation, total_steps: int | None) -> Any:
    """Return AdaLoRA's (Zhang et al. 2023), which ends with an average rank of `rank`."""
    from peft import AdaLoraConfig

    assert adaptation.rank is not None
    assert total_steps is not None, "checked before"
    options: dict[str, Any] = {
        "target_r": adaptation.rank,
        "init_r": int(adaptation.rank * INITIAL_RANK + 0.5),
        "lora_alpha": adaptation.alpha,
        "lora_dropout": adaptation.dropout,
    }
    return AdaLoraConfig(**common, **options, **schedule(total_steps))


def schedule(total_steps: int) -> dict[str, Any]:
    """Return when AdaLoRA prunes: not in the first tenth of the steps, nor in the last three tenths.

    Raises:
        AdaptError: for fewer than two steps, in which nothing can be measured before it is pruned.
    """
    if total_steps < 2:
        raise AdaptError(f"adalora shares out ranks over the steps, and there are {total_steps}. Give it at least 2.")
    return {
        "total_step": total_steps,
        "tinit": total_steps // 10,
        "tfinal": total_steps * 3 // 10,
        "deltaT": max(1, total_steps // 100),
    }


def ia3(common: dict[str, Any], adaptation: Adaptation, total_steps: int | None) -> Any:
    """Return (IA)³'s (Liu et al. 2022), with a factor for every output of a projection."""
    from peft import IA3Config

    return IA3Config(**common, feedforward_modules=[])


def vera(common: dict[str, Any], adaptation: Adaptation, total_steps: int | None) -> Any:
    """Return VeRA's (Kopiczko et al. 2024). The shared factors are saved, since they may differ between machines."""
    from peft import VeraConfig

    options: dict[str, Any] = {"r": adaptation.rank, "vera_dropout": adaptation.dropout}
    return VeraConfig(**common, **options, save_projection=True)
