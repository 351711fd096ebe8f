"""Compile the kernels with GCC, for one kind of processor.

A wheel is built with this module, in an environment without torch: it imports the standard library alone.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).parent
# The folder of the kernels that come with a wheel.
SHIPPED = SOURCES / "shipped"
FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC")


class Variant(NamedTuple):
    """Kernels for one kind of processor: GCC's flags, and the names that Linux gives to the instructions they need."""

    flags: tuple[str, ...]
    needs: frozenset[str]


_AVX2 = frozenset({"abm", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"})
_AVX512 = _AVX2 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
_BF16 = _AVX512 | {"avx512_bf16"}
# Those of a wheel, the best first.
VARIANTS = {
    "amx": Variant(("-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"), _BF16 | {"amx_tile", "amx_bf16"}),
    "avx512_bf16": Variant(("-march=x86-64-v4", "-mavx512bf16"), _BF16),
    "avx512": Variant(("-march=x86-64-v4",), _AVX512),
    "avx2": Variant(("-march=x86-64-v3",), _AVX2),
}


def find_gcc() -> str | None:
    """Return GCC's C++ compiler on Linux: the one in CXX if that is GCC's, or g++."""
    if not sys.platform.startswith("linux"):
        return None
    named = os.environ.get("CXX", "")
    is_gcc = re.search(r"(^|-)g\+\+", Path(named).name) is not None
    return (shutil.which(named) if is_gcc else None) or shutil.which("g++")


def compile_kernels(compiler: str, flags: tuple[str, ...], library: Path) -> Path:
    """Compile the kernels into a shared library.

    It is not linked to an OpenMP: a process has that of torch, which `library.py` lets it use.

    Raises:
        OSError: if the compiler cannot be started.
        subprocess.CalledProcessError: if it fails.
    """
    objects = library.with_suffix(".o")
    for command in (
        [compiler, *flags, "-c", str(SOURCES / "kernels.cpp"), "-o", str(objects)],
        [compiler, "-shared", str(objects), "-lm", "-o", str(library)],
    ):
        subprocess.run(command, capture_output=True, text=True, check=True)
    objects.unlink()
    return library
