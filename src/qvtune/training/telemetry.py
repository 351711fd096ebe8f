"""`RoleTelemetry`: what each role does in the logged steps of a run."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from qvtune.training.output_change import OutputMeter
from qvtune.training.updates import UpdateMeter, step_sizes

# Prefixes of a role's name in `metrics.jsonl`.
UPDATE, STEP, OUTPUT = "update/", "step/", "output/"


class RoleTelemetry:
    """Measures by role how far the weights have moved, how far this step moved them, and how outputs change.

    The last two are measured in watched steps only. In such a step the inputs of a few layers are captured in the
    forward pass, with copies of their trained parameters from before the step.

    Args:
        model: what `adapt` returned, before its first step.
        every: every so many steps one is watched; 0 measures nothing at all.
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        self._model, self._every = model, every
        self._before: dict[str, Tensor] = {}
        if every:
            self._moved, self._outputs = UpdateMeter(model), OutputMeter(model)

    @contextmanager
    def watching(self, step: int) -> Iterator[None]:
        """Watch the step inside the block, if it is one to watch."""
        if not self._every or step % self._every:
            yield
            return
        with self._outputs.watching():
            self._before = self._outputs.weights()
            yield

    def measure(self, *, has_stepped: bool) -> dict[str, float]:
        """Return the measured sizes as `metrics.jsonl` names them; those of the step alone only if it was watched.

        Args:
            has_stepped: whether the optimizer has changed anything; a gradient scaler skips steps that overflow.
        """
        if not self._every:
            return {}
        sizes = {f"{UPDATE}{role}": size for role, size in self._moved.measure().items()}
        before, self._before = self._before, {}
        if before and has_stepped:
            sizes |= {f"{STEP}{role}": size for role, size in step_sizes(self._model, before).items()}
            sizes |= {f"{OUTPUT}{part}": size for part, size in self._outputs.measure(before).items()}
        # JSON has no other numbers. Others occur only just before the run stops as diverged, which says enough.
        return {name: size for name, size in sizes.items() if math.isfinite(size)}
