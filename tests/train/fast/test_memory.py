"""Freed memory that stays with the process."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from qvtune.train.fast.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    torch.empty(16 * 2**20).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step(), step()
before = step()
print(step() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_pages_are_not_asked_for_again() -> None:
    faults = {
        mode: int(
            subprocess.run([sys.executable, "-c", COUNT, mode], capture_output=True, text=True, check=True).stdout
        )
        for mode in ("keep", "give back")
    }
    assert faults["keep"] < 100 < faults["give back"]
