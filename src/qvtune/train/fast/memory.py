"""Memory that a step frees stays with the process for the next one."""

import ctypes
import sys

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**30


def keep_freed_memory() -> bool:
    """Let glibc hold on to freed blocks up to a gibibyte, for the rest of the process.

    By default it gives large blocks back to the system, which has to clear every page again in the next step. The most
    memory that a run holds stays the same.

    Returns:
        Whether the C library has this setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST))
