"""`Step`: one update of what trains. A run, a search's trial and a lane all take this one."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from qvtune.methods.method import Method
from qvtune.training.objective import Batch, Objective


@dataclass(frozen=True)
class Share:
    """A process's share of one forward and backward pass.

    Attributes:
        batch: on any device.
        counts: False where there were fewer examples than processes and this one got none: the batch only keeps it in
            step with the others.
    """

    batch: Batch
    counts: bool = True


@dataclass(frozen=True)
class StepResult:
    """What a step did, on the device: reading a number waits for it.

    Attributes:
        loss: the mean over the step's examples in all processes, without what the method adds: () float32.
        gradient_norm: before it was clipped: ().
        rates: of the update, in the order of the optimizer's groups.
        has_stepped: whether anything changed; a step in float16 whose gradients overflow is left out.
    """

    loss: Tensor
    gradient_norm: Tensor
    rates: tuple[float, ...]
    has_stepped: bool


class Step:
    """Forward, loss, backward, clip, optimizer, schedule; the hooks of the method act where they are called here.

    The gradient is that of the mean over all examples of the step, however they are spread over passes and processes:
    each pass adds its examples' sum, divided by the number of examples of the whole step.

    Args:
        model: as it computes: on its device, and wrapped where several processes train it.
        objective: what is to become small.
        optimizer: over groups of `param_groups`.
        schedule: of the rates, by steps.
        method: by which the model was adapted.
        accelerator: of this process; it has the precision and adds up over processes.
        max_grad_norm: the gradient's norm is clipped to it; 0 does not clip.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        *,
        method: Method,
        accelerator: Accelerator,
        max_grad_norm: float,
    ) -> None:
        self.model, self.objective, self.schedule = model, objective, schedule
        self.method, self.accelerator, self.max_grad_norm = method, accelerator, max_grad_norm
        self.optimizer: Any = accelerator.prepare_optimizer(optimizer)
        self._trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def __call__(self, shares: Sequence[Share], number: int) -> StepResult:
        """Take step `number`, counted from 1, on one or more forward passes."""
        shares = [Share(send_to_device(share.batch, self.accelerator.device), share.counts) for share in shares]
        loss = self._backward(shares)
        norm = self.accelerator.clip_grad_norm_(self._trained, self.max_grad_norm or math.inf)
        rates = tuple(float(group["lr"]) for group in self.optimizer.param_groups)
        scale = self._scale()
        self.optimizer.step()
        self.method.after_step(self.model, number)
        # A fused optimizer leaves out a step that overflows by itself, of which its wrapper learns nothing.
        has_stepped = self._scale() >= scale
        if has_stepped:
            self.schedule.step()
        self.optimizer.zero_grad()
        return StepResult(loss, norm, rates, has_stepped)

    def _backward(self, shares: Sequence[Share]) -> Tensor:
        count = self._over_processes(
            torch.stack([share.counts * self.objective.count(share.batch) for share in shares]).sum()
        )
        total = torch.zeros((), device=self.accelerator.device)
        for place, share in enumerate(shares, 1):
            with self._adding_up(is_last=place == len(shares)):
                with self.accelerator.autocast():
                    loss = share.counts * self.objective.total(self.model, share.batch) / count
                total += loss.detach()
                # Data parallel averages over processes what is a sum over them here.
                loss = loss * self.accelerator.num_processes
                penalty = self.method.penalty(self.model)
                if penalty is not None:
                    loss = loss + penalty / len(shares)
                self.accelerator.backward(loss)
        return self._over_processes(total)

    def _scale(self) -> float:
        """Return what float16 gradients are multiplied by, which falls where they overflow; it waits for the step."""
        return 1.0 if self.accelerator.scaler is None else self.accelerator.scaler.get_scale()

    def _over_processes(self, value: Tensor) -> Tensor:
        return value if self.accelerator.num_processes == 1 else self.accelerator.reduce(value, "sum")

    def _adding_up(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Let gradients stay where they are until the last pass."""
        return nullcontext() if is_last else self.accelerator.no_sync(self.model)
