"""LoRA (Hu et al. 2021), and methods that change its scale, norms or rates: rsLoRA, DoRA, LoRA+.

The default rates of "lora" were chosen on the development sets of benchmarks/first_run.py. Those of other methods, here
and in the other files, are their papers' rates for small models, if stated, or else LoRA's earlier defaults.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvtune.methods.method import Adaptation
from qvtune.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Lora(PeftMethod):
    """Low-rank factors beside the projections, W + s B A.

    Args:
        use_rslora: whether s is alpha / √rank (Kalajdzievski 2023) instead of alpha / rank.
        use_dora: whether the norm of every row trains beside its direction (DoRA, Liu et al. 2024).
    """

    lr: float = 4e-4
    lr_ratio: float | None = 4.0
    rank: int | None = 8
    alpha: float | None = 8.0
    dropout: float | None = 0.1
    b_lr_ratio: float | None = 1.0
    use_rslora: bool = False
    use_dora: bool = False

    def config(self, common: dict[str, Any], adaptation: Adaptation, total_steps: int | None) -> Any:
        """Return PEFT's configuration of LoRA."""
        from peft import LoraConfig

        options: dict[str, Any] = {"r": adaptation.rank, "lora_alpha": adaptation.alpha}
        kind = {"use_rslora": self.use_rslora, "use_dora": self.use_dora}
        return LoraConfig(**common, **options, lora_dropout=adaptation.dropout, **kind)  # type: ignore[arg-type]

    def check(self, adaptation: Adaptation, inner: "nn.Module") -> None:
        """Check also that PEFT does not take a shared part for experts."""
        from qvtune.methods.peft_format import check_experts

        super().check(adaptation, inner)
        check_experts(adaptation, inner)

    def loads_in_peft(self, adapted: "nn.Module", adaptation: Adaptation) -> bool:
        """Whether the LoRAs of split modules can be written as LoRAs of whole ones; for DoRA only some can."""
        from qvtune.roles.fused import split_modules
        from qvtune.roles.split import SplitProjection
        from qvtune.roles.unwrap import unwrap

        fused = [module for _, module in split_modules(unwrap(adapted))]
        return not self.use_dora or all(isinstance(module, SplitProjection) for module in fused)

    def save(self, adapted: "nn.Module", adaptation: Adaptation, folder: Path) -> None:
        """Write PEFT's adapter for the model in its original shape, with its weights from before training."""
        from peft import get_peft_model_state_dict

        from qvtune.methods.adapted import record_of
        from qvtune.methods.first_factors import less_start
        from qvtune.methods.fused_format import fuse
        from qvtune.methods.peft_format import check_multihead, write_peft
        from qvtune.roles.fused import split_modules
        from qvtune.roles.unwrap import unwrap, unwrap_wrappers

        record, inner = record_of(adapted), unwrap(adapted)
        is_fused = any(True for _ in split_modules(inner))
        factors = {} if record is None else record.factors
        if not self.loads_in_peft(adapted, adaptation) or not (is_fused or factors):
            super().save(adapted, adaptation, folder)
            return
        check_multihead(adapted, adaptation)
        peft_model: Any = unwrap_wrappers(adapted)
        weights = dict(get_peft_model_state_dict(peft_model, save_embedding_layers=False))
        config = copy.deepcopy(peft_model.peft_config["default"])
        if factors:
            weights = less_start(weights, factors)
            config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
        if is_fused:
            weights = fuse(inner, config, weights, adaptation)
        write_peft(peft_model, config, weights, folder)

    def load(self, adapted: "nn.Module", adaptation: Adaptation, weights: "dict[str, Tensor]", folder: Path) -> None:
        """Load the factors into the layers, divided by role if a module is split."""
        self.take_apart(adapted, adaptation, weights, folder)
        super().load(adapted, adaptation, weights, folder)

    def take_apart(
        self, adapted: "nn.Module", adaptation: Adaptation, weights: "dict[str, Tensor]", folder: Path, times: int = 1
    ) -> None:
        """Replace the factors of whole modules by those of single roles, each of `times` the rank."""
        from qvtune.methods.fused_format import take_apart

        if self.loads_in_peft(adapted, adaptation):
            take_apart(adapted, weights, times * (adaptation.rank or 0), folder)

    def count_beside(self, adaptation: Adaptation, trained: int) -> int:
        """Count the change of full size and the identities for plain PEFT on XLNet's parameters."""
        if self.use_dora:
            return 0  # nothing for plain PEFT
        layers = [layer for layer in adaptation.attention.chosen(adaptation.layers) if layer.layout == "relative"]
        return sum(
            rows * inputs + layer.heads**2 * layer["q"].shape[1]
            for layer in layers
            for rows, inputs in (layer[role].shape for role in adaptation.roles)
        )


LORA = Lora("lora", "low-rank factors beside the projections", lr=1e-3)
DORA = Lora("dora", "LoRA of the direction, and the norm of every row", use_dora=True)
RSLORA = Lora("rslora", "LoRA scaled by alpha / sqrt(rank)", lr=2e-4, use_rslora=True)
LORAPLUS = Lora("loraplus", "LoRA with a higher rate for B", lr=1e-4, lr_ratio=2.0, b_lr_ratio=16.0)
