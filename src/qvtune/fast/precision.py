"""Hold frozen weights in bfloat16 while a model trains, and in full precision again when it is saved."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from qvtune.errors import ConfigError
from qvtune.fast.state import fast_state, own_state
from qvtune.processor import instruction_set

# Devices that do not support training in float16, whose gradients are scaled.
WITHOUT_FP16 = ("cpu", "mps")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16 for the precision asked for and the device.

    Raises:
        ConfigError: if the device does not support it.
    """
    if precision == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    if precision == "fp16" and device.type in WITHOUT_FP16:
        raise ConfigError(f"--precision fp16 needs a GPU, and the device is '{device.type}'. Use bf16 or fp32.")
    return precision


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices faster than float32 ones, according to its maker.

    Raises:
        ConfigError: for a CPU, if QVTUNE_ISA names instructions that it does not have.
    """
    if device.type == "cpu":
        has_products = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return bool(has_products) and instruction_set() == "native"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def narrow(model: nn.Module) -> None:
    """Hold frozen float32 parameters of `model`, except layer norms, in bfloat16; trained parameters stay as they are.

    The originals stay in the host's memory: on a GPU, originals and roundings together would need more memory than
    float32 alone. A state dict of the model holds the originals, bit for bit, and they follow the model to any device.
    Tied parameters stay tied. If trained and frozen parameters meet, the forward pass needs `torch.autocast`.
    """
    done: dict[int, Tensor] = {}
    for module in model.modules():
        if type(module) is nn.LayerNorm:
            continue  # a few numbers, which torch can multiply with bfloat16 anyway
        if isinstance(module, ParametrizationList):
            continue  # small trained changes are added to it and would be lost
        originals = {}
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in done:
                originals[name] = done[id(parameter)]
            elif not parameter.requires_grad and parameter.dtype == torch.float32:
                originals[name] = done[id(parameter)] = parameter.data.cpu()
                parameter.data = parameter.data.to(torch.bfloat16)
        if originals:
            state = own_state(module)
            state.originals |= originals
            state.hook = state.hook or module.register_state_dict_post_hook(_give_originals)


def widen(model: nn.Module) -> None:
    """Undo `narrow`; a weight that was changed since, for example by merging an adapter, keeps its change."""
    for module in model.modules():
        state = fast_state(module)
        if state is None or state.hook is None:
            continue
        for name, original in state.originals.items():
            parameter = module.get_parameter(name)
            is_same = _is_rounding(parameter, original)
            parameter.data = original.to(parameter.device) if is_same else parameter.data.float()
        state.hook.remove()
        state.originals, state.hook, state.packed = {}, None, None


@contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """Hold the weights of a narrowed model in float32 inside the block, for example to save them in that type."""
    was_narrow = any(_originals(module) for module in model.modules())
    widen(model)
    try:
        yield
    finally:
        if was_narrow:
            narrow(model)


def in_full(module: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point parameters and buffers below float32, converted to float32, by name.

    For a narrowed weight this is the original, which on a CPU is the same tensor as long as it stays frozen.
    """
    found = {}
    for prefix, child in module.named_modules():
        originals = _originals(child)
        for name, tensor in (*child._parameters.items(), *child._buffers.items()):
            if tensor is not None and tensor.is_floating_point() and tensor.itemsize < torch.float32.itemsize:
                full = originals.get(name, tensor.detach()).to(tensor.device, torch.float32)
                found[f"{prefix}.{name}" if prefix else name] = full
    return found


def _originals(module: nn.Module) -> dict[str, Tensor]:
    return {} if (state := fast_state(module)) is None else state.originals


def _give_originals(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name, original in _originals(module).items():
        held = state.get(prefix + name)
        if held is not None and _is_rounding(held, original):
            state[prefix + name] = original.detach().to(held.device)


def _is_rounding(held: Tensor, original: Tensor) -> bool:
    return held.dtype == torch.bfloat16 and torch.equal(held.detach(), original.to(held.device, torch.bfloat16))
