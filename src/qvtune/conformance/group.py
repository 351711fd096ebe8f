"""The processes that check together: their group, and sums over it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from qvtune.conformance.session import Share
from qvtune.device import choose_device

# A process that failed where the others did not lets them wait so long.
PATIENCE = timedelta(minutes=3)


def is_launched() -> bool:
    """Whether torchrun, accelerate launch or the like started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first() -> bool:
    """Whether this process prints for all that were launched with it."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def joined(device: str = "auto") -> Iterator[Share]:
    """Join the processes that were launched together, or make a group of this process alone; leave it at the end.

    A group that is there already is used, and stays.
    """
    place = choose_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    made = not dist.is_initialized()
    if made:
        backend = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}.get(place.type)
        if is_launched():
            dist.init_process_group(backend, timeout=PATIENCE)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Share(dist.get_rank(), dist.get_world_size(), place)
    finally:
        if made:
            dist.destroy_process_group()


def total(numbers: list[float], share: Share) -> list[float]:
    """Return the sums of numbers over all processes."""
    tensor = torch.tensor(numbers, dtype=torch.float32 if share.device.type == "mps" else torch.float64)
    tensor = tensor.to(share.device)
    dist.all_reduce(tensor)
    return tensor.tolist()


@contextmanager
def shared_folder(share: Share) -> Iterator[Path]:
    """Give a new folder that has the same name in every process, and remove it at the end."""
    number = torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(_seed())).to(share.device)
    dist.broadcast(number, 0)
    folder = Path(tempfile.gettempdir()) / f"qvtune-conformance-{int(number)}"
    folder.mkdir(exist_ok=True)
    dist.barrier()
    try:
        yield folder
    finally:
        dist.barrier()
        shutil.rmtree(folder, ignore_errors=True)


def _seed() -> int:
    return int.from_bytes(os.urandom(7), "big")
