import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qvtune.training.hardware import describe_hardware, hardware_sentence, processor_kind

CPUINFO = Path("/proc/cpuinfo")
# From the widest: a flag of the kernel's list, and what we call it.
FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX-512", "avx2": "AVX2"}


def flags_of_processor() -> set[str]:
    if not CPUINFO.is_file():
        return set()
    lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


@pytest.mark.skipif(not flags_of_processor() & {"avx2"}, reason="asks Linux of an x86 processor with AVX2")
def test_the_kind_is_the_widest_instructions_that_linux_lists():
    widest = next(kind for flag, kind in FLAGS.items() if flag in flags_of_processor())
    restricted = {"avx512": "AVX-512", "avx2": "AVX2"}.get(os.environ.get("ATEN_CPU_CAPABILITY", ""))
    if restricted and os.environ.get("QVTUNE_ISA", "native") != "native":
        widest = restricted
    assert processor_kind() == widest


def test_without_bfloat16_the_kind_is_what_torch_uses(monkeypatch):
    monkeypatch.setattr("qvtune.training.hardware.has_fast_bf16", lambda device: False)
    capability = torch.backends.cpu.get_cpu_capability()
    assert processor_kind().upper().replace("-", "") == capability
    assert processor_kind() not in ("AMX", "AVX512-BF16")


def test_what_a_run_on_the_cpu_computes_with():
    cpu = torch.device("cpu")
    fast, plain = (describe_hardware(cpu, "fp32", fast=fast) for fast in (True, False))
    assert plain["kernels"] == "torch"
    assert {**fast, "kernels": "torch"} == plain
    assert plain["device"] == "cpu"
    assert plain["processor"] == processor_kind()
    assert plain["precision"] == "fp32"


def words(**changes) -> str:
    usual = {"device": "cpu", "processor": "AMX", "kernels": "compiled", "precision": "bf16", "has_bf16": True}
    return hardware_sentence(usual | changes)


def test_the_sentence_names_precision_kernels_and_processor():
    assert words() == "Computed in bf16 by compiled kernels for AMX."
    assert words(kernels="torch").startswith("Computed in bf16 by torch's own operations for AMX.")


def test_the_sentence_says_that_a_processor_without_bfloat16_is_slower():
    text = words(processor="AVX2", precision="fp32", has_bf16=False)
    assert text.startswith("Computed in fp32 by compiled kernels for AVX2. This processor has no products in bfloat16")
    assert "slow" in text or "several times as fast" in text
    assert "bfloat16" not in words(precision="fp32")


def test_the_sentence_asks_for_a_compiler_where_none_is_found(tmp_path):
    code = (
        "from qvtune.training.hardware import hardware_sentence as s; "
        "print(s(dict(device='cpu', processor='AVX2', kernels='torch', precision='fp32', has_bf16=True)))"
    )
    printed = {}
    for name, path in (("nowhere", str(tmp_path)), ("here", os.environ["PATH"])):
        environment = os.environ | {"PATH": path, "CXX": ""}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        printed[name] = done.stdout
    assert "need Linux and g++" in printed["nowhere"]
    from qvtune.fast.cpu.native.build import find_compiler

    assert ("g++" in printed["here"]) == (find_compiler() is None)


def test_a_gpu_is_called_by_its_name():
    text = words(device="cuda", processor="NVIDIA H100", kernels="torch")
    assert text == "Computed in bf16 on NVIDIA H100."


def test_hardware_is_plain_json():
    found = describe_hardware(torch.device("cpu"), "bf16", fast=True)
    assert json.loads(json.dumps(found)) == found
