"""Compile the kernels for the present processor, once."""

import atexit
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from qvtune.cache import cached_file
from qvtune.processor import InstructionSet, instruction_set

SOURCES = Path(__file__).parent
FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
# GCC's names for the processors with these instructions.
PROCESSORS: dict[InstructionSet, str] = {
    "native": "native",
    "avx512": "x86-64-v4",
    "avx2": "x86-64-v3",
    "sse4": "x86-64-v2",
}


def compiled_kernels() -> Path | None:
    """Return the shared library with the kernels, compiled if it is not in the cache.

    This needs Linux and GCC, since torch uses GCC's OpenMP there: threads of another OpenMP would compete with torch's
    for the processors. Returns None if GCC is missing or fails; a failure gives a warning.

    Raises:
        ConfigError: if QVTUNE_ISA names instructions that this processor does not have.
    """
    compiler = find_compiler()
    if compiler is None:
        return None
    architecture = _architecture()
    try:
        make = partial(_compile, compiler, architecture)
        library = cached_file("kernels", _key(compiler, architecture), ".so", make)
        return library or make(_folder_of_this_process())
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        logging.getLogger(__name__).warning("The kernels could not be compiled, and run slower in torch: %s", reason)
        return None


def find_compiler() -> str | None:
    """Return GCC's C++ compiler: the one in CXX if that is GCC's, or g++."""
    if not sys.platform.startswith("linux") or not torch.backends.openmp.is_available():
        return None
    named = os.environ.get("CXX", "")
    is_gcc = re.search(r"(^|-)g\+\+", Path(named).name) is not None
    return (shutil.which(named) if is_gcc else None) or shutil.which("g++")


def _folder_of_this_process() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="qvtune-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _architecture() -> str:
    return f"-march={PROCESSORS[instruction_set()]}"


def _key(compiler: str, architecture: str) -> str:
    """Return a name for the sources, the compiler, the flags and the processor, also for "native"."""
    digest = hashlib.sha256(" ".join((*FLAGS, architecture)).encode())
    for source in sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp"))):
        digest.update(source.read_bytes())
    macros = subprocess.run(
        [compiler, architecture, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, check=True
    )
    digest.update(macros.stdout.encode())
    return digest.hexdigest()[:32]


def _compile(compiler: str, architecture: str, folder: Path) -> Path:
    objects, library = folder / "kernels.o", folder / "kernels.so"
    # Wheels of torch contain their own OpenMP, in some versions under a special name.
    brought = sorted(str(path) for path in (Path(torch.__file__).parent / "lib").glob("libgomp*"))
    link = [*(brought or ["-lgomp"]), "-lm"]
    for command in (
        [compiler, *FLAGS, architecture, "-c", str(SOURCES / "kernels.cpp"), "-o", str(objects)],
        [compiler, "-shared", str(objects), *link, "-o", str(library)],
    ):
        subprocess.run(command, capture_output=True, text=True, check=True)
    return library
