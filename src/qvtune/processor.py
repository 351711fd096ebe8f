"""Which of the processor's instructions qvtune uses: all, or fewer to compute like an older machine."""

import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from qvtune.errors import ConfigError, nearest

VARIABLE = "QVTUNE_ISA"

InstructionSet = Literal["native", "avx512", "avx2", "sse4"]


def instruction_set() -> InstructionSet:
    """Return the instructions that may be used, from the variable QVTUNE_ISA; "native" means all.

    The kernels are compiled for these. Every value other than "native" excludes bfloat16 products. torch and its
    libraries have their own variables (see CONTRIBUTING).

    Raises:
        ConfigError: for another value, and for instructions that this processor does not have.
    """
    value = os.environ.get(VARIABLE, "native")
    for known in get_args(InstructionSet):
        if value == known:
            if not _is_here(known):
                raise ConfigError(f"{VARIABLE} is '{value}', which this processor has not. Unset it.")
            return known
    known = ", ".join(get_args(InstructionSet))
    raise ConfigError(f"{VARIABLE} is '{value}'; it is one of {known}.{nearest(value, get_args(InstructionSet))}")


@cache
def linux_flags() -> frozenset[str]:
    """Return the names of this processor's instruction sets as Linux gives them; none on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def _is_here(name: InstructionSet) -> bool:
    if name == "native":
        return True
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    import torch

    wanted = {"avx512": torch.cpu._is_avx512_supported, "avx2": torch.cpu._is_avx2_supported}
    return name not in wanted or bool(wanted[name]())
