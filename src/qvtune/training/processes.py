"""The one place that sets up Accelerate: this process's device and precision, and the processes that train with it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState

from qvtune.device import launched_with
from qvtune.errors import ConfigError, RunError

# Accelerate's names for the precisions.
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_STATES = (PartialState, AcceleratorState, GradientState)
# Held by the thread that trains. Random states and those of Accelerate belong to the whole process.
_TRAINING = threading.RLock()


@contextmanager
def accelerator_for(
    device: torch.device,
    precision: str,
    *,
    find_unused: bool = True,
    trackers: Sequence[str] = (),
    log_folder: Path | None = None,
) -> Iterator[Accelerator]:
    """Set up Accelerate for this device and precision, and restore its earlier state afterwards.

    Args:
        device: this process's, from `choose_device`.
        precision: "fp32", "bf16" or "fp16".
        find_unused: whether some trained parameters may get no gradient in a pass; data parallel then has to search for
            them.
        trackers: names of Accelerate's trackers.
        log_folder: where trackers write their files.

    Raises:
        ConfigError: if `accelerate launch` was told to shard the model.
        RunError: if another thread of this process trains.
    """
    check_unsharded()
    if not _TRAINING.acquire(blocking=False):
        raise RunError(
            "another thread of this process trains, and both would draw from one random state, so neither would give "
            "its numbers. Train one after the other, or in a process each."
        )
    try:
        yield from _set_up(device, precision, find_unused, trackers, log_folder)
    finally:
        _TRAINING.release()


def _set_up(
    device: torch.device, precision: str, find_unused: bool, trackers: Sequence[str], log_folder: Path | None
) -> Iterator[Accelerator]:
    before = [dict(state._shared_state) for state in _STATES]
    # Accelerate holds one device and precision for a process and has no public way to change them. A program that
    # trains twice, or has its own Accelerator, would be refused.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=MIXED_PRECISION[precision],
            log_with=list(trackers) or None,
            project_dir=log_folder,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused)],
        )
    finally:
        for state, values in zip(_STATES, before, strict=True):
            state._shared_state.clear()
            state._shared_state.update(values)


def check_unsharded() -> None:
    """Check that no sharding was asked for, since it would not happen.

    Raises:
        ConfigError: if it was.
    """
    name = launched_with("FSDP", "DEEPSPEED", "MEGATRON_LM")
    if name is not None:
        raise ConfigError(
            f"the launch asks for {name.replace('_', '-')}, and qvtune train copies the model to every process "
            "(data parallel). Launch it without, or train by qvtune.Trainer in a script of your own."
        )
