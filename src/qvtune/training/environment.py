"""What a run ran on: versions and hardware, without anything personal."""

import ctypes
import gc
import importlib.metadata
import os
import platform
import sys
from contextlib import suppress
from typing import Any

import torch

from qvtune.device import CPU, choose_device, describe_device
from qvtune.fast.cpu.native.build import shipped_kernels
from qvtune.fast.cpu.native.compiler import VARIANTS
from qvtune.fast.cpu.native.library import has_tiles, load_kernels
from qvtune.processor import instruction_set, linux_flags
from qvtune.training.hardware import processor_kind

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "numpy")


def describe_environment(device: torch.device | None = None) -> dict[str, Any]:
    """Return versions of Python and the libraries, processor, threads, the device and the kernels of the fast path.

    Without a device it describes the one that "auto" chooses. Only the CPU has kernels; `shipped` is the name of those
    that came with the wheel, if they are used. Of the processor's instructions it has those that the kernels ask for.
    """
    device = choose_device() if device is None else device
    on_cpu = device.type == "cpu"
    shipped = shipped_kernels(instruction_set())
    versions = {name: importlib.metadata.version(name) for name in ("qvtune", *LIBRARIES)}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "processor_kind": processor_kind(),
        "instructions": sorted(linux_flags() & frozenset().union(*(variant.needs for variant in VARIANTS.values()))),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": None if device.type == "cpu" else describe_device(device),
        "kernels": {
            "compiled": on_cpu and load_kernels() is not None,
            "amx": on_cpu and has_tiles(),
            "instructions": instruction_set(),
            "shipped": shipped.stem if on_cpu and shipped is not None else None,
        },
        "versions": versions,
    }


def is_main_process() -> bool:
    """Whether this process of a distributed run writes and prints; torchrun numbers processes by RANK."""
    return int(os.environ.get("RANK", "0")) == 0


def reset_peak_memory() -> None:
    """Free the memory of earlier runs and restart `peak_memory`'s count: with an accelerator and on Linux."""
    gc.collect()
    allocator: Any = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if hasattr(allocator, "malloc_trim"):  # glibc's
        allocator.malloc_trim(0)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # see proc(5)


def peak_memory(device: torch.device = CPU) -> tuple[int, str]:
    """Return the most memory held since `reset_peak_memory` or the start of the process, and what holds it.

    In bytes: the GPU's memory if a GPU computes, or else the process's resident set.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "accelerator"
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset, "process"
    if sys.platform.startswith("linux"):  # getrusage also counts the parent's memory from before this process
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024, "process"
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024, "process"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
