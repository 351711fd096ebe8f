"""`TrialRunner`: train an adapted model for a few steps at any rates, and restore it afterwards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from qvtune.device import device_of
from qvtune.groups import param_groups
from qvtune.methods.adapted import adaptation_of
from qvtune.methods.state import load_trained, trained_state
from qvtune.methods.table import METHODS
from qvtune.rates import owner_of
from qvtune.search.recipe import Recipe
from qvtune.training.objective import Batch, Objective
from qvtune.training.output_change import OutputMeter
from qvtune.training.processes import accelerator_for
from qvtune.training.schedule import make_schedule, schedule_factors
from qvtune.training.seeds import kept_random_state, seed_torch, stream_seed
from qvtune.training.step import Share, Step, StepResult

# Returns the losses of a model in evaluation mode on validation batches: one per example, or one per batch.
ValidationLosses = Callable[[nn.Module, Sequence[Batch]], Sequence[float]]
# Takes the number of a pass and returns batches without end; the same number gives the same batches.
Supply = Callable[[int], Iterator[Batch]]

_SNAPSHOT = Path("a snapshot of the search")

# How many times the scale of float16 gradients may be halved for a step, from 2 ** 16 down to 2 ** -8.
MOST_HALVINGS = 24

# A step is a forward and a backward pass; the backward pass is twice the work of the forward pass.
FORWARD_SHARE = 1 / 3


@dataclass
class Cost:
    """What was spent: steps of training, and forward passes alone."""

    steps: int = 0
    forwards: float = 0.0

    @property
    def in_steps(self) -> float:
        """The whole cost, in steps of training."""
        return self.steps + self.forwards * FORWARD_SHARE


class TrialRunner:
    """Trains a model for a few steps at a time, always from a snapshot.

    Use it within `borrowed`, which restores the model bit for bit. `spent` is called after every step and forward pass
    with their total cost so far, in steps.

    Args:
        model: what `adapt` returned.
        supply: training batches by the number of the pass.
        validation: batches to evaluate a state on.
        objective: what training makes small.
        recipe: how the run trains.
        validation_losses: computes the losses of a model on the validation batches; the objective does when None.
    """

    def __init__(
        self,
        model: nn.Module,
        supply: Supply,
        validation: Sequence[Batch],
        objective: Objective,
        recipe: Recipe,
        validation_losses: ValidationLosses | None = None,
    ) -> None:
        adaptation = adaptation_of(model)
        assert adaptation is not None, "a trial trains what adapt returned"
        self.model, self.objective, self.recipe = model, objective, recipe
        self.cost = Cost()
        self.spent: Callable[[float], None] = lambda steps: None
        self.method = METHODS[adaptation.method]
        self._validation_losses = validation_losses or self._mean_losses
        self._supply, self._validation = supply, validation
        self._device = device_of(model)

    @property
    def groups(self) -> list[str]:
        """Names of what trains: "query", "value", "head" and so on."""
        groups = param_groups(self.model, lr=1.0, b_lr_ratio=self.recipe.b_lr_ratio)
        return list(dict.fromkeys(owner_of(group["name"]) for group in groups))

    @property
    def evaluation_cost(self) -> float:
        """What `validate` costs, in steps."""
        return len(self._validation) / self.recipe.accumulation * FORWARD_SHARE

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of what trains, for `restore`."""
        return _copy_of(self.model)

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Give the model what a snapshot holds."""
        load_trained(self.model, dict(snapshot), _SNAPSHOT)

    def train(
        self, rates: Mapping[str, float], steps: int, number: int, schedule: Sequence[float] | None = None
    ) -> list[float]:
        """Train the groups in `rates` for some steps and return each step's loss, up to the first that is not finite.

        Args:
            rates: learning rate by the name of a group; other groups stay as they are.
            steps: number of steps, which is also the length of the schedule.
            number: number of the pass, which fixes batches and dropout.
            schedule: factors of the rates for every step, instead of the recipe's.
        """
        losses: list[float] = []
        self.model.train()
        with self._accelerator() as accelerator:
            step = self._step(rates, steps, schedule, accelerator)
            for place, batches in self._steps(number, steps):
                losses.append(float(self._take(step, batches, number, place).loss))
                self.model.zero_grad()  # also of groups that stay as they are
                if not np.isfinite(losses[-1]):
                    break
        return losses

    def output_changes(self, rates: Mapping[str, float], number: int) -> dict[str, float]:
        """Take one step and return the relative change of attention's output through each role alone.

        Args:
            rates: learning rate by the name of a group.
            number: number of the pass.

        Returns:
            The change by the name of the role, and "query_key" for both together; see `OutputMeter`.
        """
        meter = OutputMeter(self.model)
        before = meter.weights()
        with meter.watching():
            self.train(rates, 1, number, schedule=[1.0])
        return meter.measure(before)

    @torch.no_grad()
    def losses(self, steps: int, number: int) -> list[float]:
        """Return the losses that `train` would give if nothing moved: the same batches, the same dropout."""
        self.model.train()
        found = []
        with self._accelerator() as accelerator:
            for place, batches in self._steps(number, steps):
                self._seed(number, place)
                own = [send_to_device(batch, self._device) for batch in batches]
                with accelerator.autocast():
                    total = sum(self.objective.total(self.model, batch) for batch in own)
                found.append(float(total / sum(self.objective.count(batch) for batch in own)))
                self._pay(forwards=len(batches) / self.recipe.accumulation)
        return found

    @torch.no_grad()
    def validate(self) -> list[float]:
        """Return the losses on the validation batches, in evaluation mode; an empty list if one is not finite."""
        self.model.eval()
        batches = [send_to_device(batch, self._device) for batch in self._validation]
        with self._accelerator() as accelerator, accelerator.autocast():
            losses = [float(loss) for loss in self._validation_losses(self.model, batches)]
        self._pay(forwards=len(self._validation) / self.recipe.accumulation)
        return losses if np.isfinite(losses).all() else []

    def full_schedule(self, steps: int) -> list[float]:
        """Return the factors of the rates by step in the recipe's schedule over `steps` steps."""
        return schedule_factors(self.recipe.schedule, warmup=self.recipe.warmup, steps=steps)

    def _take(self, step: Step, batches: Sequence[Batch], number: int, place: int) -> StepResult:
        """Take a step, and repeat it at a lower scale if its gradients have overflowed float16.

        A run can skip such a step, but here a step is a measurement.
        """
        shares = [Share(batch) for batch in batches]
        for _ in range(MOST_HALVINGS):
            self._seed(number, place)
            result = step(shares, place + 1)
            self._pay(steps=1)
            if result.has_stepped or not torch.isfinite(result.loss):
                break
            self.model.zero_grad()
        return result

    def _step(
        self, rates: Mapping[str, float], steps: int, factors: Sequence[float] | None, accelerator: Accelerator
    ) -> Step:
        """Return the step of a run at these rates."""
        recipe = self.recipe
        # The rate of a group is set below; here it only fixes the ratio of B to A.
        groups = param_groups(self.model, lr=1.0, weight_decay=recipe.weight_decay, b_lr_ratio=recipe.b_lr_ratio)
        chosen = [g | {"lr": g["lr"] * rates[owner_of(g["name"])]} for g in groups if owner_of(g["name"]) in rates]
        betas = (recipe.adam_beta1, recipe.adam_beta2)
        optimizer = self.method.make_optimizer(chosen, betas=betas, eps=recipe.adam_epsilon)
        if factors is None:
            schedule = make_schedule(optimizer, recipe.schedule, warmup=recipe.warmup, steps=steps)
        else:
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factors[min(step, steps - 1)])
        self.method.begin(self.model, steps)
        return Step(
            self.model,
            self.objective,
            optimizer,
            schedule,
            method=self.method,
            accelerator=accelerator,
            max_grad_norm=recipe.max_grad_norm,
        )

    def _accelerator(self) -> Any:
        return accelerator_for(self._device, self.recipe.precision)

    def _mean_losses(self, model: nn.Module, batches: Sequence[Batch]) -> list[float]:
        return [float(self.objective.total(model, batch) / self.objective.count(batch)) for batch in batches]

    def _steps(self, number: int, steps: int) -> Iterator[tuple[int, list[Batch]]]:
        """Yield the number of a step and its batches."""
        supply = self._supply(number)
        for step in range(steps):
            yield step, [next(supply) for _ in range(self.recipe.accumulation)]

    def _seed(self, number: int, step: int) -> None:
        seed_torch(stream_seed(self.recipe.seed, "suggest") + (number << 20) + step, self._device)

    def _pay(self, steps: int = 0, forwards: float = 0.0) -> None:
        self.cost.steps += steps
        self.cost.forwards += forwards
        self.spent(self.cost.in_steps)


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Restore a model afterwards, also after an error: what trains, its gradients, and every module's mode."""
    state = _copy_of(model)
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with kept_random_state(device_of(model)):
            yield
    finally:
        load_trained(model, state, _SNAPSHOT)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode


def _copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trained_state(model).items()}
