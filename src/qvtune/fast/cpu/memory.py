"""Memory that is not given back to the system in every step."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Of glibc's malloc.h: how many blocks may be mapped apart, from which size on they are, and how much free memory is
# left at the end of the heap.
_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1


# How many `kept_memory` are open: the allocator is one for the process, so the last one to end puts it back.
_open = 0
_lock = threading.Lock()


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let the process hold the memory that it frees, and give it back at the end.

    glibc returns large blocks to the system at once, which then clears every page of them in the next step: up to a
    third of a step's time. For the process that trains, on Linux with glibc; elsewhere nothing changes. It is for the
    whole process, whichever thread enters it; of several that overlap, the last one to end gives the memory back.
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
    """Count those that are open, and set the allocator for the first of them and back after the last."""
    global _open
    with _lock:
        before, _open = _open, _open + change
        if not before:
            allocator.mallopt(_MMAP_MAX, 0)
            allocator.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        elif not _open:
            allocator.mallopt(_MMAP_MAX, 65536)
            # Where glibc's own adjustment ends up once large blocks have been freed; it ends with the first call above.
            allocator.mallopt(_MMAP_THRESHOLD, 32 << 20)
            allocator.mallopt(_TRIM_THRESHOLD, 64 << 20)
            allocator.malloc_trim(0)
