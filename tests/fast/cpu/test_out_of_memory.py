"""Kernels that get no memory raise an error that says how much, and never end the process."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qvtune.fast.cpu.native.build import find_compiler
from qvtune.fast.cpu.native.library import has_tiles

STARVED = Path(__file__).with_name("starved.py")
# Allocations of each case by kernel, forward and backward: of the call itself, and of the thread's scratch.
ALLOCATIONS = {
    "attention": {"attention": 2, "attention_backward": 2},
    "lora": {"lora": 2, "lora_backward": 2},
    "residual": {"residual_norm": 1, "residual_norm_backward": 1},
    "product": {"product": 2},
}

# Under a limit of the address space that the kernel's scratch exceeds: 100,000 keys of 64 numbers, widened twice.
LIMITED = """
import resource, torch
from types import SimpleNamespace
from qvtune.fast.cpu.attention import attention_forward

query, key = torch.randn(1, 1, 1, 64), torch.randn(1, 1, 100_000, 64)
few = attention_forward(SimpleNamespace(is_causal=False), query, key[:, :, :10], key[:, :, :10], None, dropout=0.1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20), resource.RLIM_INFINITY))
try:
    attention_forward(SimpleNamespace(is_causal=False), query, key, key, None, dropout=0.1)
except MemoryError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def starved(made_once: Path) -> dict[str, dict[str, Any]]:
    """What starved.py printed, by case: as far as it came."""
    if find_compiler() is None:
        pytest.skip("no GCC on Linux here to compile kernels whose allocations fail")
    environment = os.environ | {"QVTUNE_CACHE": str(made_once)}
    done = subprocess.run([sys.executable, str(STARVED)], capture_output=True, text=True, check=False, env=environment)
    found = {line["case"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"ended with {done.returncode} after {list(found)}:\n{done.stderr[-2000:]}"
    return found


@pytest.mark.parametrize("case", ALLOCATIONS)
def test_every_allocation_is_checked(case: str, starved: dict[str, dict[str, Any]]) -> None:
    if case == "product" and not has_tiles():
        pytest.skip("this processor has no AMX, or its system does not allow it")
    found = starved[case]
    assert found["is_done"], "there were more allocations than starved.py lets fail"
    assert Counter(text.split("'")[1] for text in found["errors"]) == ALLOCATIONS[case]
    assert all("KiB" in text for text in found["errors"])
    assert found["recovers"], "a computation after the failure gives other numbers"


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the address space are Linux's")
def test_a_limit_of_the_system_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    assert "the kernel 'attention' asked for" in done.stdout
    assert "MiB" in done.stdout
    assert "--batch-size" in done.stdout
