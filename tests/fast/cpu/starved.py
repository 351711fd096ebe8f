"""Run every kernel while its allocations fail, one at a time, and print what came of it as JSON.

A process of its own, because a kernel that uses memory it has not got ends the process. `starved.h` makes allocations
fail; it is compiled into the kernels.
"""

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertConfig, BertOutput

from qvtune.errors import OutOfMemoryError
from qvtune.fast.cpu.attention import attention_forward
from qvtune.fast.cpu.native import build, library
from qvtune.fast.cpu.residual import shorten_residual_blocks
from qvtune.fast.frozen import FastFrozenLinear
from qvtune.fast.lora import FastLora

HEADER = Path(__file__).with_name("starved.h")
# More allocations than any case makes. Sizes below are such that a backward pass needs more scratch than its forward.
MOST = 10


def attention() -> list[Tensor]:
    """Compute attention, with a mask of each head, and its gradients."""
    q, k, v = (torch.randn(2, 3, 20, 8, requires_grad=True) for _ in range(3))
    mask = torch.rand(2, 3, 20, 20) > 0.3
    out, _ = attention_forward(SimpleNamespace(is_causal=False), q, k, v, mask, dropout=0.1)
    out.square().sum().backward()
    return [out, q.grad, k.grad, v.grad]


def lora() -> list[Tensor]:
    """Compute a layer with LoRA, and its gradients."""
    model = get_peft_model(nn.Sequential(nn.Linear(1000, 24)), LoraConfig(r=4, target_modules=["0"]))
    layer: Any = model.base_model.model[0]
    layer.__class__ = FastLora
    nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(9, 1000, requires_grad=True)
    out = layer(x)
    out.square().sum().backward()
    return [out, x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


def residual() -> list[Tensor]:
    """Compute the end of a residual block, and its gradients."""
    block = BertOutput(BertConfig(hidden_size=3000, intermediate_size=70)).requires_grad_(False)
    assert shorten_residual_blocks(block) == 1
    x, other = (torch.randn(3, 5, n, requires_grad=True) for n in (70, 3000))
    out = block(x, other)
    out.square().sum().backward()
    return [out, x.grad, other.grad]


def product() -> list[Tensor]:
    """Compute a frozen layer in bfloat16, and the gradient of its input."""
    layer = nn.Linear(64, 96).bfloat16().requires_grad_(False)
    layer.__class__ = FastFrozenLinear
    x = torch.randn(33, 64, dtype=torch.bfloat16, requires_grad=True)
    out = layer(x)
    out.float().square().sum().backward()
    return [out, x.grad]


CASES: dict[str, Callable[[], list[Tensor]]] = {
    "attention": attention,
    "lora": lora,
    "residual": residual,
    **({"product": product} if library.has_tiles() else {}),
}


def seeded(compute: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Compute from the same random numbers each time."""
    torch.manual_seed(0)
    return [tensor.detach().clone() for tensor in compute()]


def starve(compute: Callable[[], list[Tensor]], fail_after: Callable[[int], None]) -> dict[str, Any]:
    """Let allocation 0, 1, 2... fail until none is left, each time in a new thread, whose scratch is empty."""
    expected = seeded(compute)
    found: dict[str, Any] = {"errors": [], "recovers": True}

    def attempt(number: int) -> None:
        fail_after(number)
        try:
            done = seeded(compute)
        except OutOfMemoryError as error:
            found["errors"].append(str(error))
            done = seeded(compute)  # the same thread, with its scratch as the failure left it
        else:
            found["is_done"] = True
        finally:
            fail_after(-1)
        found["recovers"] &= all(torch.equal(a, b) for a, b in zip(done, expected, strict=True))

    for number in range(MOST):
        thread = Thread(target=attempt, args=(number,))
        thread.start()
        thread.join()
        if "is_done" in found:
            break
    return found


def main() -> None:
    """Starve every kernel."""
    build.FLAGS = (*build.FLAGS, "-include", str(HEADER))
    build.SHIPPED = Path("none")
    library.load_kernels.cache_clear()
    path = build.find_kernels()
    assert path is not None
    torch.set_num_threads(1)
    fail_after = ctypes.CDLL(str(path)).fail_after
    fail_after.argtypes, fail_after.restype = [ctypes.c_long], None
    for name, compute in CASES.items():
        print(json.dumps({"case": name, **starve(compute, fail_after)}), flush=True)


if __name__ == "__main__":
    main()
