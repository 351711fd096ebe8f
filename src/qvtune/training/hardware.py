"""What a run computes with, in words: the kind of processor or the GPU, the kernels and the precision."""

from typing import Any

import torch

from qvtune.fast.cpu.native.build import find_compiler
from qvtune.fast.cpu.native.library import load_kernels
from qvtune.fast.precision import has_fast_bf16

AMX, AVX512_BF16, AVX512, AVX2 = "AMX", "AVX512-BF16", "AVX-512", "AVX2"
# torch's names for the instructions that its operations use.
CAPABILITIES = {"AVX512": AVX512, "AVX2": AVX2}


def processor_kind() -> str:
    """Return the widest instructions in use for matrix products: AMX, AVX512-BF16, AVX-512 or AVX2.

    The first two multiply in bfloat16. For other processors it is torch's name for the instructions that it uses.
    """
    if has_fast_bf16(torch.device("cpu")):
        return AMX if torch.cpu._is_amx_tile_supported() else AVX512_BF16
    capability = torch.backends.cpu.get_cpu_capability()
    return CAPABILITIES.get(capability, capability)


def describe_hardware(device: torch.device, precision: str, *, fast: bool) -> dict[str, Any]:
    """Return what a run computes with, as `result.json` stores it.

    Args:
        device: where the model is.
        precision: fp32, bf16 or fp16.
        fast: whether the run uses qvtune's own kernels, if there are any.

    Returns:
        `device` ("cpu" or another type), `processor` (its kind, or the name of the GPU), `kernels` ("compiled" or
        "torch"), `precision`, and `has_bf16`: whether it multiplies bfloat16 matrices faster than float32 ones.
    """
    on_cpu = device.type == "cpu"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "device": device.type,
        "processor": processor_kind() if on_cpu else name,
        "kernels": "compiled" if on_cpu and fast and load_kernels() is not None else "torch",
        "precision": precision,
        "has_bf16": has_fast_bf16(device),
    }


def hardware_sentence(hardware: dict[str, Any]) -> str:
    """Return what `describe_hardware` found as a sentence for the summary of a run, and what makes the run slow.

    For example "Computed in bf16 by compiled kernels for AMX."
    """
    if hardware["device"] != "cpu":
        return f"Computed in {hardware['precision']} on {hardware['processor']}."
    is_compiled = hardware["kernels"] == "compiled"
    how = "compiled kernels" if is_compiled else "torch's own operations"
    sentence = f"Computed in {hardware['precision']} by {how} for {hardware['processor']}."
    if not is_compiled and find_compiler() is None:
        sentence += " Compiled kernels, which are faster, need Linux and g++."
    if not hardware["has_bf16"]:
        sentence += (
            " This processor has no products in bfloat16: those with AMX or AVX512-BF16 train several times as fast."
        )
    return sentence
