"""Compile the kernels for the processor that is here, once."""

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
# What GCC calls the processors that instructions stand for.
PROCESSORS: dict[InstructionSet, str] = {
    "native": "native",
    "avx512": "x86-64-v4",
    "avx2": "x86-64-v3",
    "sse4": "x86-64-v2",
}


def compiled_kernels() -> Path | None:
    """Return the shared library with the kernels, compiled if it is not in the cache.

    Needs Linux and GCC, whose OpenMP is the one that torch runs on there: another one's threads would fight with
    torch's for the processors. None where that is missing or fails, with a warning in the latter case.

    Raises:
        ConfigError: if QVTUNE_ISA names no instructions that are here.
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
    """Return GCC's C++ compiler: what CXX names if that is one, or g++."""
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
    """Return a name for the sources, the compiler, the flags and the processor, also where that is "native"."""
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
    # Wheels of torch bring an OpenMP of their own, under a name of its own in some versions.
    brought = sorted(str(path) for path in (Path(torch.__file__).parent / "lib").glob("libgomp*"))
    link = [*(brought or ["-lgomp"]), "-lm"]
    for command in (
        [compiler, *FLAGS, architecture, "-c", str(SOURCES / "kernels.cpp"), "-o", str(objects)],
        [compiler, "-shared", str(objects), *link, "-o", str(library)],
    ):
        subprocess.run(command, capture_output=True, text=True, check=True)
    return library
