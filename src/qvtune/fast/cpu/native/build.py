"""Find the kernels for the present processor: those of the wheel, or compiled once."""

import atexit
import hashlib
import logging
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import torch

from qvtune.cache import cached_file
from qvtune.fast.cpu.native.compiler import FLAGS, SHIPPED, SOURCES, VARIANTS, compile_kernels, find_gcc
from qvtune.processor import InstructionSet, instruction_set, linux_flags

# GCC's names for the processors with these instructions.
PROCESSORS: dict[InstructionSet, str] = {
    "native": "native",
    "avx512": "x86-64-v4",
    "avx2": "x86-64-v3",
    "sse4": "x86-64-v2",
}


def find_kernels() -> Path | None:
    """Return the shared library with the kernels: that of the wheel, or else compiled if it is not in the cache.

    This needs Linux, and a wheel with kernels or GCC, since torch uses GCC's OpenMP there: threads of another OpenMP
    would compete with torch's for the processors. Returns None if there is neither, or GCC fails, which gives a
    warning.

    Raises:
        ConfigError: if QVTUNE_ISA names instructions that this processor does not have.
    """
    instructions = instruction_set()
    if (shipped := shipped_kernels(instructions)) is not None:
        return shipped
    compiler = find_compiler()
    if compiler is None:
        return None
    architecture = f"-march={PROCESSORS[instructions]}"
    try:
        make = partial(_compile, compiler, architecture)
        library = cached_file("kernels", _key(compiler, architecture), ".so", make)
        return library or make(_folder_of_this_process())
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        logging.getLogger(__name__).warning("The kernels could not be compiled, and run slower in torch: %s", reason)
        return None


def shipped_kernels(instructions: InstructionSet) -> Path | None:
    """Return the best of the wheel's kernels that this processor can run, if the wheel has any.

    Args:
        instructions: "native" for all that the processor has; of another set there may be one library.
    """
    if not torch.backends.openmp.is_available():
        return None
    names = list(VARIANTS) if instructions == "native" else [instructions]
    for name in names:
        path = SHIPPED / f"{name}.so"
        if path.is_file() and VARIANTS[name].needs <= linux_flags():
            return path
    return None


def find_compiler() -> str | None:
    """Return GCC's C++ compiler, if torch uses an OpenMP that its code can share."""
    return find_gcc() if torch.backends.openmp.is_available() else None


def _folder_of_this_process() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="qvtune-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _key(compiler: str, architecture: str) -> str:
    """Return a name for the sources, the compiler, the flags and the processor, also for "native"."""
    digest = hashlib.sha256(" ".join((*FLAGS, architecture)).encode())
    for source in sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp"), SOURCES / "compiler.py")):
        digest.update(source.read_bytes())
    macros = subprocess.run(
        [compiler, architecture, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, check=True
    )
    digest.update(macros.stdout.encode())
    return digest.hexdigest()[:32]


def _compile(compiler: str, architecture: str, folder: Path) -> Path:
    return compile_kernels(compiler, (*FLAGS, architecture), folder / "kernels.so")
