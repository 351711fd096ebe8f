"""Compile and load the device "pretend" of device.cpp. Once it is there, torch has it as its accelerator."""

import hashlib
import subprocess
import tempfile
import types
from pathlib import Path

import torch

from qvtune.cache import cached_file
from qvtune.fast.cpu.native.build import find_compiler

NAME = "pretend"
SOURCE = Path(__file__).with_suffix(".cpp")


def load() -> torch.device:
    """Let torch have the device, and return it."""
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module())
    torch.ops.load_library(str(_compiled()))
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    return torch.device(NAME, 0)


def _module() -> types.ModuleType:
    """Return what `torch.pretend` is: what torch asks of a device, as `torch.cuda` answers it."""
    module = types.ModuleType(f"torch.{NAME}")
    module.is_available = lambda: True
    module.is_initialized = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.set_device = lambda device: None
    module.synchronize = lambda device=None: None
    module._is_in_bad_fork = lambda: False
    module.manual_seed = module.manual_seed_all = lambda seed: torch.ops.pretend.seed(seed % 2**63)
    module.get_rng_state = lambda device=None: torch.ops.pretend.get_state()
    module.set_rng_state = lambda state, device=None: torch.ops.pretend.set_state(state)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    return module


def _compiled() -> Path:
    compiler, source = find_compiler(), SOURCE.read_bytes()
    assert compiler is not None, "the tests ask for one before they start"

    def make(folder: Path) -> Path:
        torch_folder = Path(torch.__file__).parent
        headers = [torch_folder / "include", torch_folder / "include/torch/csrc/api/include"]
        made = folder / "pretend.so"
        subprocess.run(
            [compiler, "-std=c++20", "-O0", "-shared", "-fPIC", *(f"-I{path}" for path in headers), str(SOURCE),
             "-o", str(made), f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return made

    key = hashlib.sha256(source + torch.__version__.encode()).hexdigest()[:32]
    return cached_file("pretend", key, ".so", make) or make(Path(tempfile.mkdtemp()))
