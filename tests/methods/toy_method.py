"""A method in one file, as somebody else may write one: a factor for every row of a projection."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qvtune.methods.files import read_weights, write_weights
from qvtune.methods.method import Adaptation, Method
from qvtune.methods.parametrized import remove_parametrization
from qvtune.roles.unwrap import unwrap

FILE = "scale.safetensors"
# Of the squared gains in the loss.
PULL = 0.01
# Gains are kept within it.
MOST = 0.5


class RowScale(nn.Module):
    """Multiplies a weight's rows by 1 + gain, and counts the steps that were taken."""

    steps: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(len(weight), device=weight.device))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=weight.device), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (1 + self.gain)[:, None]


@dataclass(frozen=True)
class Scale(Method):
    """Trains the gains, pulls them to zero, and clips them."""

    decays: bool = False

    def train(self, inner: nn.Module, adaptation: Adaptation) -> None:
        for name in adaptation.targets:
            module = inner.get_submodule(name)
            parametrize.register_parametrization(module, "weight", RowScale(module.weight))

    def undo(self, adapted: nn.Module, adaptation: Adaptation, merge: bool) -> nn.Module:
        inner = unwrap(adapted)
        for name in adaptation.targets:
            remove_parametrization(inner.get_submodule(name), merge=merge)
        return inner

    def penalty(self, model: nn.Module) -> Tensor:
        return PULL * torch.stack([scale.gain.square().sum() for scale in scales(model).values()]).sum()

    def after_step(self, model: nn.Module, step: int) -> None:
        for scale in scales(model).values():
            scale.steps.fill_(step)
            scale.gain.data.clamp_(-MOST, MOST)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        return {f"steps/{name}": scale.steps for name, scale in scales(model).items()}

    def save(self, adapted: nn.Module, adaptation: Adaptation, folder: Path) -> None:
        head = tuple(f"{name}." for name in adaptation.head)
        parameters = unwrap(adapted).named_parameters()
        weights = {name: p for name, p in parameters if name.startswith(head)}
        write_weights(weights | {f"{name}/gain": scale.gain for name, scale in scales(adapted).items()}, folder / FILE)

    def read(self, folder: Path) -> dict[str, Tensor]:
        return read_weights(folder / FILE)

    def load(self, adapted: nn.Module, adaptation: Adaptation, weights: dict[str, Tensor], folder: Path) -> None:
        # It takes what it finds, and does not look for what is missing.
        inner = unwrap(adapted)
        for name, value in weights.items():
            module, slash, _ = name.partition("/")
            parameter = scales(adapted)[module].gain if slash else inner.get_parameter(name)
            parameter.data.copy_(value)


def scales(model: nn.Module) -> dict[str, RowScale]:
    found = {}
    for name, module in unwrap(model).named_modules():
        if isinstance(module, RowScale):
            found[name.removesuffix(".parametrizations.weight.0")] = module
    return found


SCALE = Scale("scale", "a factor for every row", lr=3e-2, lr_ratio=2.0)
