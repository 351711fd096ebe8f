"""Call the kernels on tensors."""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qvtune.amounts import format_bytes
from qvtune.errors import OutOfMemoryError
from qvtune.fast.cpu.native.build import find_kernels

# Suffixes of the kernels' names by the type of their tensors.
SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}

_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float, "k": ctypes.c_uint64, "w": ctypes.c_int32}
# Arguments by kernel: pointers, integers and floats; "kwf" is a `Drop`.
_SIGNATURES = {
    "drop": "ppiikwf",
    "erf_gelu": "pppi",
    "tanh_gelu": "pppi",
    "silu": "pppi",
    "multiply": "pppi",
    "residual_norm": "ppppfpppiikwf",
    "residual_norm_backward": "ppppppiikwf",
    "lora": "pppppiiiifkwf",
    "lora_backward": "ppppppppiiiifkwf",
    "attention": "pppppfppkwf",
    "attention_backward": "pppppfpppppkwf",
}
# Kernels for only one type.
_BF16_SIGNATURES = {"product": "ppppiii"}
# Functions that do not allocate memory.
_OTHERS = {"random_bits": "kip", "may_use_tiles": ""}

Argument = Tensor | int | float | None


def has_kernels(*tensors: Tensor) -> bool:
    """Whether there are kernels for these tensors: all on the CPU and of one type that the kernels support."""
    first = tensors[0].dtype
    known = all(tensor.device.type == "cpu" and tensor.dtype == first for tensor in tensors)
    return known and first in SUFFIXES and load_kernels() is not None


def call(name: str, dtype: torch.dtype, *arguments: Argument) -> None:
    """Run a kernel. Tensors have to be contiguous unless the kernel gets strides; None is a null pointer.

    Raises:
        OutOfMemoryError: if the kernel did not get its working memory. Its output is then undefined.
    """
    kernels = load_kernels()
    assert kernels is not None, "asked by has_kernels"
    values = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    missing = kernels[f"{name}_{SUFFIXES[dtype]}"](*values)
    if missing:
        raise OutOfMemoryError(
            f"the kernel '{name}' asked for {format_bytes(missing)} to work in, and the system has not that much free. "
            "Take fewer or shorter texts in a batch (--batch-size, --max-length)."
        )


def random_bits(key: int, words: int) -> Tensor:
    """Return 16-bit pieces of the first `words` words of a key, as `bits.random_words` makes them."""
    kernels = load_kernels()
    assert kernels is not None, "asked by has_kernels"
    bits = torch.empty(4 * words, dtype=torch.int16)
    kernels["random_bits"](key, words, bits.data_ptr())
    return bits


@cache
def has_tiles() -> bool:
    """Whether the processor multiplies bfloat16 matrices with AMX, and the system allows this process to use it."""
    kernels = load_kernels()
    return kernels is not None and bool(kernels["may_use_tiles"]())


@cache
def load_kernels() -> dict[str, Callable[..., Any]] | None:
    """Return the compiled kernels by name, or None if they are not available."""
    path = find_kernels()
    if path is None:
        return None
    _share_openmp()
    library = ctypes.CDLL(str(path))
    signatures = {f"{name}_{suffix}": types for name, types in _SIGNATURES.items() for suffix in SUFFIXES.values()}
    signatures |= {f"{name}_{SUFFIXES[torch.bfloat16]}": types for name, types in _BF16_SIGNATURES.items()}
    kernels = {}
    for name, types in {**signatures, **_OTHERS}.items():
        kernels[name] = getattr(library, name)
        kernels[name].argtypes = [_TYPES[letter] for letter in types]
        kernels[name].restype = ctypes.c_int64 if name in signatures else None
    kernels["may_use_tiles"].restype = ctypes.c_int32
    return kernels


def _share_openmp() -> None:
    """Let the kernels use the OpenMP of torch: wheels of torch contain one, in some versions under a special name."""
    brought = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    ctypes.CDLL(str(brought[0]) if brought else "libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
