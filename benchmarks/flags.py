"""The precision in which transformers' Trainer is fastest on the machine at hand, found by timing both."""

import time
from functools import cache

import torch
from torch import nn

# MiniLM's width, its feed-forward's, and the tokens of a batch of 32 sentences.
WIDTH, INNER, TOKENS = 384, 1536, 1_024
REPEATS = 5


@cache
def fastest_precision() -> str:
    """Return "bf16" where autocast to bfloat16 makes a training step faster than float32 does, else "fp32"."""
    times = time_precisions()
    return min(times, key=lambda precision: times[precision])


@cache
def time_precisions() -> dict[str, float]:
    """Return the seconds of a step of feed-forward layers, forward and backward, in float32 and under autocast.

    A processor without products in bfloat16 computes them many times slower than those in float32, and a comparison
    with a rival who is held to them says nothing. The shortest of a few steps counts: what else the machine does only
    adds.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert device is not None
    layers = [nn.Sequential(nn.Linear(WIDTH, INNER), nn.GELU(), nn.Linear(INNER, WIDTH)) for _ in range(2)]
    model = nn.Sequential(*layers).to(device)
    inputs = torch.randn(TOKENS, WIDTH, device=device)
    times: dict[str, list[float]] = {"bf16": [], "fp32": []}
    for repeat in range(REPEATS + 1):
        for precision, seconds in times.items():
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = model(inputs).float().square().mean()
            loss.backward()
            float(loss.detach())  # waits for an accelerator
            if repeat:  # the first one also allocates
                seconds.append(time.perf_counter() - start)
    return {precision: min(seconds) for precision, seconds in times.items()}


def trainer_flags(precision: str | None = None) -> dict[str, bool | str]:
    """Return the options of TrainingArguments that make its training fast here: by length, and in that precision.

    Args:
        precision: "bf16" or "fp32", where it was found before.
    """
    return {"train_sampling_strategy": "group_by_length", "bf16": (precision or fastest_precision()) == "bf16"}


def describe_flags(times: dict[str, float]) -> str:
    """Say which precision the flags have, and what the trial found."""
    fastest, other = sorted(times, key=lambda precision: times[precision])
    found = f"{times[fastest] * 1e3:.1f} ms, in {other} {times[other] * 1e3:.1f} ms"
    return f"The flags are {fastest}, grouped by length: in the trial a step of feed-forward layers takes {found}."
