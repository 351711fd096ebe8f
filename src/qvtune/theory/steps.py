"""The updates that Theorem 2 assumes: the same size for every parameter, whatever its gradient."""

from collections.abc import Callable
from typing import Any

import torch


class SignDescent(torch.optim.SGD):
    """Gradient descent on the sign of the gradient (Hayou et al. 2024, section 3)."""

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Replace every gradient by its sign, and step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.sign_()
        return super().step(closure)


def make_optimizer(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return torch's Adam, whose first step is the sign of the gradient too, or `SignDescent`.

    Args:
        name: "adam" or "sign".
        groups: dictionaries with `params` and `lr`.
    """
    return torch.optim.Adam(groups) if name == "adam" else SignDescent(groups)
