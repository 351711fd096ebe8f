"""A loop in memory that is kept."""

import ctypes
import subprocess
import sys

import pytest

# In a process of its own, whose heap nothing else has used. Prints page faults before, within and after.
STEPS = """
import resource, torch
from qvtune.fast.cpu.memory import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(48 << 20, dtype=torch.uint8) for _ in range(3)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
with kept_memory():
    with kept_memory():
        pass
    within = min(faults() for _ in range(10))  # a small block in between may move the large ones once more
print(before, within, faults())
"""

HAS_GLIBC = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "malloc_trim")


@pytest.mark.skipif(not HAS_GLIBC, reason="glibc alone does that")
def test_memory_is_kept_until_the_last_one_ends_and_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    before, within, after = map(int, done.stdout.split())
    assert before > 3 * (48 << 20) // 65536  # pages of the largest size that is common
    assert within < before / 2
    assert after > before / 2
