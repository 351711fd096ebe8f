"""Methods that scale by vectors: (IA)³ and VeRA."""

from dataclasses import dataclass
from typing import Any

from qvtune.methods.method import Adaptation
from qvtune.methods.peft_method import PeftMethod


@dataclass(frozen=True)
class Ia3(PeftMethod):
    """A factor for every output of a projection (Liu et al. 2022)."""

    decays: bool = False

    def config(self, common: dict[str, Any], adaptation: Adaptation, total_steps: int | None) -> Any:
        """Return PEFT's configuration of (IA)³."""
        from peft import IA3Config

        return IA3Config(**common, feedforward_modules=[])


@dataclass(frozen=True)
class Vera(PeftMethod):
    """Two vectors around random factors that all projections share (Kopiczko et al. 2024)."""

    rank: int | None = 256
    dropout: float | None = 0.0
    decays: bool = False
    rank_is_bound: bool = False

    def config(self, common: dict[str, Any], adaptation: Adaptation, total_steps: int | None) -> Any:
        """Return PEFT's configuration of VeRA. The shared factors are saved, since they may differ between machines."""
        from peft import VeraConfig

        options: dict[str, Any] = {"r": adaptation.rank, "vera_dropout": adaptation.dropout}
        return VeraConfig(**common, **options, save_projection=True)

    def count_beside(self, adaptation: Adaptation, trained: int) -> int:
        """Count the shared factors, which are as large as the largest projection needs."""
        shapes = [projection.shape for projection in adaptation.projections]
        return (adaptation.rank or 0) * sum(max(sides) for sides in zip(*shapes, strict=True))


IA3 = Ia3("ia3", "a factor for every output", lr=3e-3, lr_ratio=2.0)
VERA = Vera("vera", "two vectors around random factors that all projections share", lr=4e-3, lr_ratio=2.0)
