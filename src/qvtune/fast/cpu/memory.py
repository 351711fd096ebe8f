"""Memory that is not given back to the system in every step."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Of glibc's malloc.h: how many blocks may be mapped apart, from which size on they are, and how much free memory is
# kept at the end of the heap.
_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let the process keep the memory that it frees, and give it back at the end.

    glibc returns large blocks to the system at once, which then clears every page of them in the next step: up to a
    third of a step's time. For the process that trains, on Linux with glibc; elsewhere nothing changes.
    """
    allocator: Any = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if not hasattr(allocator, "malloc_trim"):
        yield
        return
    allocator.mallopt(_MMAP_MAX, 0)
    allocator.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        allocator.mallopt(_MMAP_MAX, 65536)
        # Where glibc's own adjustment ends up once large blocks have been freed; it ends with the first call above.
        allocator.mallopt(_MMAP_THRESHOLD, 32 << 20)
        allocator.mallopt(_TRIM_THRESHOLD, 64 << 20)
        allocator.malloc_trim(0)
