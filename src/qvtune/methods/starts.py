"""LoRA that does not start at zero: PiSSA, OLoRA, EVA and LoftQ."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qvtune.errors import AdaptError
from qvtune.methods.lora import Lora
from qvtune.methods.method import Adaptation, Batches

if TYPE_CHECKING:
    from torch import Tensor, nn


class _FromFactors(Lora):
    """Starts at factors that are subtracted from the weights, and is saved with them: a LoRA of twice the rank."""

    def load(self, adapted: "nn.Module", adaptation: Adaptation, weights: "dict[str, Tensor]", folder: Path) -> None:
        """Subtract the first factors from the weights, and load the others into the layers."""
        from qvtune.methods.first_factors import begin_at, take_start
        from qvtune.methods.peft_format import fill_peft

        self.take_apart(adapted, adaptation, weights, folder, times=2)
        begin_at(adapted, adaptation, take_start(weights, adaptation, folder))
        fill_peft(adapted, weights, folder)

    def count_beside(self, adaptation: Adaptation, trained: int) -> int:
        """Count the first factors too."""
        return trained + super().count_beside(adaptation, trained)


class Pissa(_FromFactors):
    """Starts as the largest singular directions (Meng et al. 2024)."""

    def start(self, adapted: "nn.Module", adaptation: Adaptation, batches: Batches) -> None:
        """Decompose the weights."""
        from qvtune.methods.first_factors import start_pissa

        start_pissa(adapted, adaptation)


class Olora(_FromFactors):
    """Starts as a QR decomposition (Büyükakyüz 2024)."""

    def start(self, adapted: "nn.Module", adaptation: Adaptation, batches: Batches) -> None:
        """Decompose the weights."""
        from qvtune.methods.first_factors import start_olora

        start_olora(adapted, adaptation)


@dataclass(frozen=True)
class Eva(Lora):
    """Starts as the directions in which the inputs vary most (Paischer et al. 2024)."""

    batches: int = 8

    def start(self, adapted: "nn.Module", adaptation: Adaptation, batches: Batches) -> None:
        """Compute the directions from the inputs."""
        from qvtune.methods.eva import start_eva

        start_eva(adapted, adaptation, batches)


class Loftq(Lora):
    """Starts as the rounding error of 4-bit weights and trains beside them (Li et al. 2023)."""

    def check_installed(self) -> None:
        """Check that weights can be rounded to 4 bits."""
        from qvtune.methods.first_factors import load_bitsandbytes

        try:
            load_bitsandbytes()
        except ImportError as error:
            raise AdaptError("loftq needs bitsandbytes. Install it with: pip install 'qvtune[loftq]'") from error

    def start(self, adapted: "nn.Module", adaptation: Adaptation, batches: Batches) -> None:
        """Make the weights 4-bit ones."""
        from qvtune.methods.first_factors import start_loftq

        start_loftq(adapted, adaptation)

    def loads_in_peft(self, adapted: "nn.Module", adaptation: Adaptation) -> bool:
        """False: PEFT would need the 4-bit weights."""
        return False

    def load(self, adapted: "nn.Module", adaptation: Adaptation, weights: "dict[str, Tensor]", folder: Path) -> None:
        """Round the weights to 4 bits, as in training, and load the factors into the layers."""
        from qvtune.methods.first_factors import begin_at

        begin_at(adapted, adaptation, {})
        super().load(adapted, adaptation, weights, folder)

    def count_beside(self, adaptation: Adaptation, trained: int) -> int:
        """Return 0: nothing is saved for plain PEFT."""
        return 0


PISSA = Pissa("pissa", "LoRA that starts as the largest singular directions", lr=2e-4)
OLORA = Olora("olora", "LoRA that starts as a QR decomposition", lr=2e-4)
EVA = Eva("eva", "LoRA that starts as the main directions of the inputs")
LOFTQ = Loftq("loftq", "LoRA that starts as the error of 4-bit weights")
