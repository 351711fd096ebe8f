"""`Bench`: train an adapted model for a few steps at any rates, and give it back as it was."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers import get_scheduler

from qvtune.adaptation import adaptation_of
from qvtune.device import device_of
from qvtune.errors import ConfigError
from qvtune.groups import B_FACTORS, NO_DECAY, param_groups
from qvtune.methods.state import load_trained, trained_state
from qvtune.methods.table import METHODS
from qvtune.options import parse_options
from qvtune.train.config import OptimizationOptions
from qvtune.train.output_change import OutputMeter
from qvtune.train.run import SCHEDULES
from qvtune.train.seeds import kept_random_state, stream_seed

Batch = Mapping[str, Any]
Loss = Callable[[nn.Module, Batch], Tensor]
# What is to be low on validation batches, of a model in evaluation mode: a number per example or per batch.
Judge = Callable[[nn.Module, Sequence[Batch]], Sequence[float]]
# Batches without end, from the number of the pass: the same number gives the same batches.
Supply = Callable[[int], Iterator[Batch]]

_KEPT = Path("the state kept by a bench")

PRECISIONS = ("fp32", "bf16", "fp16")

# So often the scale of float16's gradients is halved for a step, from 2 ** 16 down to 2 ** -8.
MOST_HALVINGS = 24

# A step is a forward and a backward pass, which is twice as much work again.
FORWARD_SHARE = 1 / 3


@dataclass(frozen=True)
class Recipe:
    """How a run trains, but for its rates and length: AdamW's numbers, the schedule, clipping.

    Attributes:
        schedule: "linear", "constant" or "cosine", after the warmup.
        warmup: part of the steps over which the rates rise from zero.
        weight_decay: AdamW's; biases and norms are spared.
        adam_beta1: AdamW's β₁.
        adam_beta2: AdamW's β₂.
        adam_epsilon: AdamW's ε.
        max_grad_norm: the gradient's norm is clipped to it; 0 does not clip.
        accumulation: batches per step.
        b_lr_ratio: η_B / η_A of LoRA's factors; the method's own when None.
        precision: "fp32", or "bf16" or "fp16" for autocast.
        seed: of dropout and of the order of batches.

    Raises:
        ConfigError: for a value that a run would not take.
    """

    schedule: str = "linear"
    warmup: float = 0.0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    accumulation: int = 1
    b_lr_ratio: float | None = None
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; it should be one of {', '.join(PRECISIONS)}.")
        shared = {field.name for field in fields(self)} & OptimizationOptions.model_fields.keys()
        parse_options(OptimizationOptions, {name: getattr(self, name) for name in shared})


@dataclass
class Cost:
    """What was spent: steps of training, and batches that were run forward alone."""

    steps: int = 0
    forwards: float = 0.0

    @property
    def in_steps(self) -> float:
        """All of it in steps of training."""
        return self.steps + self.forwards * FORWARD_SHARE


class Bench:
    """Trains a model for a few steps at a time, always from a state that was kept.

    Use it within `borrowed`, which gives the model back bit for bit. `spent` is called after every step and forward
    pass with what all of them cost so far, in steps.

    Args:
        model: what `adapt` returned.
        supply: training batches by the number of the pass.
        validation: batches that say how good a state is.
        loss: of a model and a batch, the mean over its examples.
        judge: says how bad a model is on the validation batches; their losses when None.
        recipe: how the run trains.
    """

    def __init__(
        self,
        model: nn.Module,
        supply: Supply,
        validation: Sequence[Batch],
        loss: Loss,
        recipe: Recipe,
        judge: Judge | None = None,
    ) -> None:
        adaptation = adaptation_of(model)
        assert adaptation is not None, "a bench takes what adapt returned"
        self.model, self.loss, self.recipe = model, loss, recipe
        self.cost = Cost()
        self._judge = judge or (lambda model, batches: [float(loss(model, batch)) for batch in batches])
        self.spent: Callable[[float], None] = lambda steps: None
        self._supply, self._validation = supply, validation
        self.method = METHODS[adaptation.method]
        self._device = device_of(model)

    @property
    def groups(self) -> list[str]:
        """Names of what trains: "query", "value", "head" and so on."""
        groups = param_groups(self.model, lr=1.0, b_lr_ratio=self.recipe.b_lr_ratio)
        return list(dict.fromkeys(_owner(group["name"]) for group in groups))

    @property
    def evaluation_cost(self) -> float:
        """What `validate` costs, in steps."""
        return len(self._validation) / self.recipe.accumulation * FORWARD_SHARE

    def keep(self) -> dict[str, Tensor]:
        """Return a copy of the state, for `put_back`."""
        return _copy_of(self.model)

    def put_back(self, state: Mapping[str, Tensor]) -> None:
        """Give the model a state that was kept."""
        load_trained(self.model, dict(state), _KEPT)

    def train(
        self, rates: Mapping[str, float], steps: int, number: int, course: Sequence[float] | None = None
    ) -> list[float]:
        """Train what `rates` names for some steps and return the loss of each, up to the first that is not finite.

        Args:
            rates: learning rate by the name of a group; groups that it does not name stay as they are.
            steps: how many, which is also the length of the schedule.
            number: of the pass, which fixes batches and dropout.
            course: factors of the rates for every step, in place of the recipe's schedule.
        """
        optimizer = self._optimizer(rates)
        if course is None:
            schedule: Any = self._schedule(optimizer, steps)
        else:
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: course[min(step, steps - 1)])
        self.method.begin(self.model, steps)
        scaler = torch.amp.GradScaler(self._device.type, enabled=self.recipe.precision == "fp16")
        self.model.train()
        losses = []
        for step, batches in self._steps(number, steps):
            loss = self._backward(batches, scaler)
            losses.append(loss)
            if not np.isfinite(loss):
                break
            for _ in range(MOST_HALVINGS):
                if self._has_stepped(optimizer, scaler):
                    break
                # A run can leave out a step whose gradients overflow; here a step is a measurement.
                self.model.zero_grad()
                self._seed(number, step)
                self._backward(batches, scaler)
            schedule.step()
            self.method.after_step(self.model, step + 1)
            self.model.zero_grad()
        return losses

    def output_changes(self, rates: Mapping[str, float], number: int) -> dict[str, float]:
        """Take one step and return the relative change of attention's output that it makes through each role alone.

        Args:
            rates: learning rate by the name of a group.
            number: of the pass.

        Returns:
            By the name of the role, and "query_key" for both together; see `OutputMeter`.
        """
        meter = OutputMeter(self.model)
        before = meter.weights()
        with meter.watching():
            self.train(rates, 1, number, course=[1.0])
        return meter.measure(before)

    @torch.no_grad()
    def losses(self, steps: int, number: int) -> list[float]:
        """Return what `train` would have as losses if nothing moved: the same batches, the same dropout."""
        self.model.train()
        found = []
        for _, batches in self._steps(number, steps):
            found.append(float(np.mean([float(self._loss(batch)) for batch in batches])))
            self._pay(forwards=len(batches) / self.recipe.accumulation)
        return found

    @torch.no_grad()
    def validate(self) -> list[float]:
        """Return what the judge says of the model in evaluation mode; nothing where its outputs are not finite."""
        self.model.eval()
        batches = [send_to_device(batch, self._device) for batch in self._validation]
        with self._autocast():
            losses = [float(loss) for loss in self._judge(self.model, batches)]
        self._pay(forwards=len(self._validation) / self.recipe.accumulation)
        return losses if np.isfinite(losses).all() else []

    def _backward(self, batches: Sequence[Batch], scaler: Any) -> float:
        total = 0.0
        for batch in batches:
            loss = self._loss(batch) / len(batches)
            total += float(loss.detach())
            penalty = self.method.penalty(self.model)
            if penalty is not None:
                loss = loss + penalty / len(batches)
            scaler.scale(loss).backward()
        self._pay(steps=1)
        return total

    def _has_stepped(self, optimizer: torch.optim.Optimizer, scaler: Any) -> bool:
        """Clip and step, or lower the scale of the gradients where they have overflowed float16."""
        scale = scaler.get_scale()
        scaler.unscale_(optimizer)
        if self.recipe.max_grad_norm:
            nn.utils.clip_grad_norm_(_parameters(optimizer), self.recipe.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        return scaler.get_scale() >= scale

    def _loss(self, batch: Batch) -> Tensor:
        with self._autocast():
            return self.loss(self.model, send_to_device(batch, self._device))

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.recipe.precision)
        return torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None)

    def _steps(self, number: int, steps: int) -> Iterable[tuple[int, list[Batch]]]:
        """Yield the number of a step and its batches, with the random state that belongs to it."""
        supply = self._supply(number)
        for step in range(steps):
            batches = [next(supply) for _ in range(self.recipe.accumulation)]
            self._seed(number, step)
            yield step, batches

    def _seed(self, number: int, step: int) -> None:
        torch.manual_seed(stream_seed(self.recipe.seed, "suggest") + (number << 20) + step)

    def _optimizer(self, rates: Mapping[str, float]) -> torch.optim.Optimizer:
        # The rate of a group is put in below; here it keeps the ratio of B to A.
        groups = param_groups(
            self.model, lr=1.0, weight_decay=self.recipe.weight_decay, b_lr_ratio=self.recipe.b_lr_ratio
        )
        chosen = [g | {"lr": g["lr"] * rates[_owner(g["name"])]} for g in groups if _owner(g["name"]) in rates]
        betas = (self.recipe.adam_beta1, self.recipe.adam_beta2)
        return self.method.make_optimizer(chosen, betas=betas, eps=self.recipe.adam_epsilon)

    def full_course(self, steps: int) -> list[float]:
        """Return the factors of the rates by step that the recipe's schedule has over so many steps."""
        optimizer = torch.optim.SGD([torch.zeros(())], lr=1.0)
        schedule, factors = self._schedule(optimizer, steps), []
        for _ in range(steps):
            factors.append(float(schedule.get_last_lr()[0]))
            optimizer.step()
            schedule.step()
        return factors

    def _schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        return get_scheduler(SCHEDULES[self.recipe.schedule], optimizer, round(self.recipe.warmup * steps), steps)

    def _pay(self, steps: int = 0, forwards: float = 0.0) -> None:
        self.cost.steps += steps
        self.cost.forwards += forwards
        self.spent(self.cost.in_steps)


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Give a model back as it was, also after an error: what trains, its gradients, and every module's mode."""
    state = _copy_of(model)
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with kept_random_state(device_of(model)):
            yield
    finally:
        load_trained(model, state, _KEPT)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode


def _copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trained_state(model).items()}


def _owner(group: str) -> str:
    """Return "value" for "value", "value_b" and "value_no_decay"."""
    return group.removesuffix(NO_DECAY).removesuffix(B_FACTORS)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
