"""GaLore: full training whose gradients are projected to a low rank (Zhao et al. 2024)."""

import contextlib
import io
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qvtune.errors import AdaptError
from qvtune.methods.full import Full
from qvtune.methods.method import Adaptation

if TYPE_CHECKING:
    from torch.optim import Optimizer

# Steps between two projections, galore-torch's own default.
GAP = 200


@dataclass(frozen=True)
class Galore(Full):
    """The projections train, and their optimizer sees only a few directions of their gradients."""

    rank: int | None = 4
    alpha: float | None = 4.0
    optimizer: str | None = "GaLore"

    def check_installed(self) -> None:
        """Check that its optimizer is installed."""
        load_galore()

    def group_settings(self, adaptation: Adaptation) -> dict[str, Any]:
        """Return the settings for projecting a group's gradients."""
        return {"rank": adaptation.rank, "scale": adaptation.alpha, "update_proj_gap": GAP, "proj_type": "std"}

    def make_optimizer(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> "Optimizer":
        """Return galore-torch's AdamW."""
        return galore_adamw(groups, betas=betas, eps=eps)


def load_galore() -> Any:
    """Import galore-torch, and silence what it and bitsandbytes print.

    Raises:
        AdaptError: if it is not installed.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            import galore_torch
    except ImportError as error:
        raise AdaptError("galore needs galore-torch. Install it with: pip install 'qvtune[galore]'") from error
    return galore_torch


def galore_adamw(groups: list[dict[str, Any]], **options: Any) -> Any:
    """Return galore-torch's AdamW over groups from `param_groups`, with a state dict of plain tensors.

    Args:
        groups: what `param_groups` returned for a model adapted by "galore".
        **options: betas and eps.
    """
    galore = load_galore()
    projector = galore.galore_projector.GaLoreProjector

    class GaLore(galore.GaLoreAdamW):  # type: ignore[name-defined]
        """Stores the projection of a parameter as a tensor in its state dict, which loads without pickle."""

        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            # LAPACK's matrices run down the columns and loaded ones along the rows, and products with them differ.
            for state in self.state.values():
                if "projector" in state:
                    state["projector"].ortho_matrix = state["projector"].ortho_matrix.contiguous()
            return loss

        def state_dict(self) -> dict[str, Any]:
            saved = super().state_dict()
            saved["state"] = {key: _plain(state) for key, state in saved["state"].items()}
            return saved

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            for group in self.param_groups:
                for parameter in group["params"]:
                    state = self.state.get(parameter, {})
                    if "projection" in state:
                        settings = {name: group[name] for name in ("rank", "update_proj_gap", "scale", "proj_type")}
                        state["projector"] = projector(**settings)
                        state["projector"].ortho_matrix = state.pop("projection")

    return GaLore(groups, no_deprecation_warning=True, **options)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in state.items() if name != "projector"}
    return kept | ({"projection": state["projector"].ortho_matrix} if "projector" in state else {})


GALORE = Galore("galore", "the projections, by low-rank gradients", lr=3e-5, lr_ratio=2.0)
