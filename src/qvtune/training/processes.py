"""The one place that sets up Accelerate: this process's device and precision, and the processes that train with it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
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


def check_sharding(args: Any) -> None:
    """Check that FSDP or DeepSpeed is done where transformers' arguments or the launch ask for it.

    Accelerate leaves both out on CPUs without a word.

    Raises:
        ConfigError: if it would not be done.
    """
    asked = {
        "DeepSpeed": bool(args.deepspeed) or launched_with("DEEPSPEED") is not None,
        "FSDP": bool(args.fsdp) or launched_with("FSDP") is not None,
    }
    _ = args.device  # sets the processes up
    alone = args.distributed_state is None or args.distributed_state.distributed_type is DistributedType.NO
    for name, wanted in asked.items():
        if wanted and args.device.type == "cpu":
            raise ConfigError(
                f"{name} is asked for, and on CPUs Accelerate would train plainly data-parallel instead. Launch "
                "without it, or shard in a loop of your own, as docs/many-processes.md shows."
            )
        if wanted and name == "FSDP" and alone:
            raise ConfigError(
                "FSDP is asked for, and this is one process, where Accelerate leaves it out. Launch several, or "
                "leave it out."
            )
