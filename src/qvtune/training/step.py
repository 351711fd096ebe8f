"""`Step`: one update of what trains. A run and a search's trial use it."""

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
        counts: False if there were fewer examples than processes and this process got none. The batch then only keeps
            the process in step with the others.
    """

    batch: Batch
    counts: bool = True


@dataclass(frozen=True)
class StepResult:
    """The results of a step, on the device: reading a number waits for the step.

    Attributes:
        loss: the mean over the step's examples in all processes, without the method's penalty: () float32.
        gradient_norm: the norm before clipping: ().
        rates: rates of the update, in the order of the optimizer's groups.
        has_stepped: whether anything changed; a step in float16 whose gradients overflow is skipped.
    """

    loss: Tensor
    gradient_norm: Tensor
    rates: tuple[float, ...]
    has_stepped: bool


class Step:
    """One step: forward, loss, backward, clip, optimizer, schedule, with the method's hooks where they are called here.

    The gradient is that of the mean over all examples of the step, however they are divided into passes and processes.
    Each pass adds the sum over its examples, divided by the number of examples of the whole step.

    Args:
        model: ready to compute: on its device, and wrapped if several processes train it.
        objective: what training makes small.
        optimizer: over groups of `param_groups`.
        schedule: the schedule of the rates, by step.
        method: the method by which the model was adapted.
        accelerator: this process's; it holds the precision and sums over processes.
        max_grad_norm: the gradient's norm is clipped to this; 0 does not clip.
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
        # A fused optimizer skips a step that overflows by itself; its wrapper does not notice.
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
                # Data parallel averages gradients over processes, but here they are to be summed.
                loss = loss * self.accelerator.num_processes
                penalty = self.method.penalty(self.model)
                if penalty is not None:
                    loss = loss + penalty / len(shares)
                self.accelerator.backward(loss)
        return self._over_processes(total)

    def _scale(self) -> float:
        """Return the scale of float16 gradients, which falls when they overflow; reading it waits for the step."""
        return 1.0 if self.accelerator.scaler is None else self.accelerator.scaler.get_scale()

    def _over_processes(self, value: Tensor) -> Tensor:
        return value if self.accelerator.num_processes == 1 else self.accelerator.reduce(value, "sum")

    def _adding_up(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Let gradients stay in their process until the last pass."""
        return nullcontext() if is_last else self.accelerator.no_sync(self.model)
