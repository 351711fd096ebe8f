"""What a run ran on, and the memory that it held."""

import subprocess
import sys

import pytest

from qvtune.training.environment import describe_environment

HELD = """
import numpy as np
from qvtune.training.environment import peak_memory, reset_peak_memory
block = np.ones(50_000_000)
high = peak_memory()[0]
del block
# Linux counts pages by thread, and adds them up now and then.
assert high - peak_memory()[0] < 1_000_000
reset_peak_memory()
low = peak_memory()[0]
assert high - low > 300_000_000, (high, low)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets a process forget its peak")
def test_the_peak_counts_from_where_it_was_reset() -> None:
    subprocess.run([sys.executable, "-c", HELD], check=True)


def test_the_environment_names_the_libraries() -> None:
    versions = describe_environment()["versions"]
    assert {"qvtune", "torch", "transformers", "peft"} <= versions.keys()
