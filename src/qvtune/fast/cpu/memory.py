"""Keep memory in the process instead of returning it to the system in every step."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# From glibc's malloc.h: how many blocks may be mapped separately, from which size on, and how much free memory stays at
# the end of the heap.
_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1


# How many `kept_memory` blocks are open. The process has one allocator, so the last block to end restores it.
_open = 0
_lock = threading.Lock()


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let the process keep the memory that it frees, and return it at the end.

    glibc returns large blocks to the system at once, and the system clears every page of them in the next step: up to a
        third of a step's time. This is for the process that trains, on Linux with glibc; elsewhere nothing changes. It
        applies to the whole process, whichever thread enters it. If several overlap, the last one to end returns the
        memory.
    """
    allocator: Any = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if not hasattr(allocator, "malloc_trim"):
        yield
        return
    _count(allocator, 1)
    try:
        yield
    finally:
        _count(allocator, -1)


def _count(allocator: Any, change: int) -> None:
    """Count the open blocks; set the allocator for the first one, and restore it after the last."""
    global _open
    with _lock:
        before, _open = _open, _open + change
        if not before:
            allocator.mallopt(_MMAP_MAX, 0)
            allocator.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        elif not _open:
            allocator.mallopt(_MMAP_MAX, 65536)
            # glibc's own adjustment reaches this value after large blocks are freed; the first call above ends the
            # adjustment.
            allocator.mallopt(_MMAP_THRESHOLD, 32 << 20)
            allocator.mallopt(_TRIM_THRESHOLD, 64 << 20)
            allocator.malloc_trim(0)
