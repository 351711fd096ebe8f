"""QVTUNE_ISA: fewer instructions than the processor has."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qvtune.cli.main import main
from qvtune.errors import ConfigError
from qvtune.fast.cpu.native import build
from qvtune.fast.frozen import has_bf16_products
from qvtune.fast.precision import has_fast_bf16
from qvtune.processor import instruction_set

ON_X86 = platform.machine().lower() in ("x86_64", "amd64")
needs_avx2 = pytest.mark.skipif(not ON_X86 or not torch.cpu._is_avx2_supported(), reason="this processor has no AVX2")

WHAT_RUNS = """
import json
from qvtune.training.environment import describe_environment
print(json.dumps(describe_environment()["kernels"]))
"""


def test_all_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QVTUNE_ISA", raising=False)
    assert instruction_set() == "native"


@needs_avx2
@pytest.mark.parametrize("name", ["avx2", "sse4"])
def test_fewer_are_without_products_of_bfloat16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVTUNE_ISA", name)
    assert instruction_set() == name
    assert not has_fast_bf16(torch.device("cpu"))
    assert not has_bf16_products()


@needs_avx2
@pytest.mark.skipif(build.find_compiler() is None, reason="no GCC on Linux here to compile the kernels")
def test_kernels_are_compiled_for_them(tmp_path: Path) -> None:
    files = set()
    for name, wanted, unwanted in (("avx2", b"ymm", b"zmm"), ("sse4", b"xmm", b"ymm")):
        given = {**os.environ, "QVTUNE_ISA": name, "QVTUNE_CACHE": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", WHAT_RUNS], env=given, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == {"compiled": True, "amx": False, "instructions": name, "shipped": None}
        (library,) = set((tmp_path / "kernels").iterdir()) - files
        files.add(library)
        code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, check=True).stdout
        assert wanted in code
        assert unwanted not in code


def test_a_bad_value_is_refused_by_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("QVTUNE_ISA", "avx")
    assert main(["runs", "nowhere"]) == 2
    error = capsys.readouterr().err
    assert error == "error: QVTUNE_ISA is 'avx'; it is one of native, avx512, avx2, sse4. Did you mean 'avx2'?\n"


def test_instructions_that_are_not_here_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: False)
    monkeypatch.setenv("QVTUNE_ISA", "avx512")
    with pytest.raises(ConfigError, match="QVTUNE_ISA is 'avx512', which this processor has not"):
        instruction_set()
