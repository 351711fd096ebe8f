"""The one place that sets Accelerate up: this process's device, precision, and the others that train with it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState

from qvtune.errors import ConfigError

# What Accelerate calls the precisions.
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_STATES = (PartialState, AcceleratorState, GradientState)


@contextmanager
def accelerator_for(
    device: torch.device,
    precision: str,
    *,
    find_unused: bool = True,
    trackers: Sequence[str] = (),
    log_folder: Path | None = None,
) -> Iterator[Accelerator]:
    """Set Accelerate up for this device and precision, and leave it as it was found.

    Args:
        device: of this process, from `choose_device`.
        precision: "fp32", "bf16" or "fp16".
        find_unused: whether some of what trains may have no gradient in a pass, which data parallel has to look for.
        trackers: names of Accelerate's trackers.
        log_folder: where trackers that write files write them.

    Raises:
        ConfigError: where `accelerate launch` was told to shard the model.
    """
    check_unsharded()
    before = [dict(state._shared_state) for state in _STATES]
    # Accelerate keeps one device and precision for a process and has no public way to change them: a program that
    # trains twice, or has an Accelerator of its own, would be refused.
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
    """Check that no sharding was asked for, which would not be done.

    Raises:
        ConfigError: if it was.
    """
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("true", "1"):
            raise ConfigError(
                f"the launch asks for {name.replace('_', '-')}, and qvtune train copies the model to every process "
                "(data parallel). Launch it without, or train by qvtune.Trainer in a script of your own."
            )
