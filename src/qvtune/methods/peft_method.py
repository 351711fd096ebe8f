"""`PeftMethod`: what PEFT's methods share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qvtune.errors import AdaptError
from qvtune.methods.method import Adaptation, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

# The names that PEFT's layers give their parts; PEFT compares the ends of names with these too.
PEFT_PARTS = (
    *("lora_A", "lora_B", "lora_E", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "lora_dropout"),
    *("ia3_l", "vera_A", "vera_B", "vera_lambda_b", "vera_lambda_d", "vera_dropout", "base_layer", "default"),
)


@dataclass(frozen=True)
class PeftMethod(Method, ABC):
    """A method of PEFT: PEFT puts its layers around the projections, removes them, and writes the adapters."""

    checkpoint: Literal["peft", "model", "trained"] = "peft"

    @abstractmethod
    def config(self, common: dict[str, Any], adaptation: Adaptation, total_steps: int | None) -> Any:
        """Return PEFT's configuration.

        Args:
            common: the arguments that every PEFT configuration takes.
            adaptation: what to do.
            total_steps: how many steps training will take, for a method with `steps`.
        """

    def check(self, adaptation: Adaptation, inner: "nn.Module") -> None:
        """Check the rank, and that PEFT will find the head by its name."""
        self.check_rank(adaptation)
        modules = dict(inner.named_modules())
        for name in adaptation.head:
            others = [m for m in (*(m for m in modules if m not in adaptation.head), *PEFT_PARTS) if m.endswith(name)]
            if not others:
                continue
            other = modules.get(others[0]) if others[0] != name else None  # else a part of PEFT, or without weights
            both = other is not None and any(True for _ in other.parameters())
            advice = "Name both in the head" if both else "Give its module another name"
            raise AdaptError(
                f"head '{name}' cannot be told from '{others[0]}' by PEFT, which compares the ends of names. {advice}, "
                "or use method='full'."
            )

    def apply(self, inner: "nn.Module", adaptation: Adaptation, total_steps: int | None) -> "nn.Module":
        """Wrap the model with PEFT."""
        from qvtune.methods.peft_layers import put_on

        return put_on(inner, adaptation, lambda common: self.config(common, adaptation, total_steps))

    def undo(self, adapted: "nn.Module", adaptation: Adaptation, merge: bool) -> "nn.Module":
        """Remove PEFT's layers."""
        from qvtune.methods.peft_layers import take_off

        return take_off(adapted, adaptation.head, merge=merge)

    def loads_in_peft(self, adapted: "nn.Module", adaptation: Adaptation) -> bool:
        """Whether no module is split: PEFT has no form for a part of a matrix, except for LoRA."""
        from qvtune.roles.fused import split_modules
        from qvtune.roles.unwrap import unwrap

        return not any(True for _ in split_modules(unwrap(adapted)))

    def save(self, adapted: "nn.Module", adaptation: Adaptation, folder: Path) -> None:
        """Let PEFT write its adapter."""
        from qvtune.methods.peft_format import check_multihead
        from qvtune.roles.unwrap import unwrap_wrappers

        check_multihead(adapted, adaptation)
        peft_model: Any = unwrap_wrappers(adapted)
        folder.mkdir(parents=True, exist_ok=True)
        peft_model.save_pretrained(str(folder), save_embedding_layers=False)

    def read(self, folder: Path) -> "dict[str, Tensor]":
        """Return the tensors of PEFT's file."""
        from qvtune.methods.files import WEIGHTS_FILE, read_weights

        return read_weights(folder / WEIGHTS_FILE)

    def load(self, adapted: "nn.Module", adaptation: Adaptation, weights: "dict[str, Tensor]", folder: Path) -> None:
        """Load the tensors into PEFT's layers."""
        from qvtune.methods.peft_format import fill_peft

        fill_peft(adapted, weights, folder)
