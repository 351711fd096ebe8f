"""One root seed, and a separate stream for everything random in a run."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

STREAMS = ("init", "order", "dropout", "batches", "probe", "suggest", "answers")


def stream_seed(seed: int, stream: str) -> int:
    """Return the seed of a named stream: 32 bits that depend only on the root seed and the name."""
    assert stream in STREAMS, stream
    return int.from_bytes(hashlib.sha256(f"{seed} {stream}".encode()).digest()[:4], "big")


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch as `torch.manual_seed` does, for computations on a device.

    That one keeps the caller's stack for every kind of device that is not in use, at each call. A search seeds every
    step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Restore the state of every random generator afterwards: Python's, numpy's, torch's and the device's."""
    before = random.getstate(), np.random.get_state()
    devices = [] if device.type == "cpu" else [device]
    try:
        with torch.random.fork_rng(devices, device_type=device.type):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
