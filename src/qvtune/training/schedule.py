"""Schedules: the factor of every rate by step, after the warmup."""

import math

import torch
from transformers import get_scheduler

# Our names, and the names in transformers.
SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup", "cosine": "cosine"}


def make_schedule(
    optimizer: torch.optim.Optimizer, name: str, *, warmup: float, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the schedule of an optimizer over `steps` steps; the rates rise from zero in the fraction `warmup`."""
    return get_scheduler(SCHEDULES[name], optimizer, math.ceil(warmup * steps), steps)


def schedule_factors(name: str, *, warmup: float, steps: int) -> list[float]:
    """Return the factor of the rates in every step."""
    optimizer = torch.optim.SGD([torch.zeros(())], lr=1.0)
    schedule, factors = make_schedule(optimizer, name, warmup=warmup, steps=steps), []
    for _ in range(steps):
        factors.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return factors
