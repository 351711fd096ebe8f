"""The fast path with its kernels and without them, as on a machine that has no compiler."""

from pathlib import Path

import pytest
from kernels import leave_out_kernels

from qvtune.fast.cpu.native import build, library
from qvtune.processor import instruction_set

WITH, WITHOUT = "kernels", "torch"


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_kernels(monkeypatch)


@pytest.fixture
def with_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are compiled, also where a wheel brought some."""
    if build.find_compiler() is None:
        pytest.skip("no GCC on Linux here to compile the kernels")
    monkeypatch.setattr(build, "SHIPPED", tmp_path / "none")


@pytest.fixture
def with_kernels() -> None:
    if build.find_compiler() is None and build.shipped_kernels(instruction_set()) is None:
        pytest.skip("no kernels in a wheel, and no GCC on Linux here to compile them")
    assert library.load_kernels() is not None, "GCC is here and the kernels were not compiled"


@pytest.fixture(params=[WITH, WITHOUT])
def either(request: pytest.FixtureRequest) -> str:
    request.getfixturevalue("with_kernels" if request.param == WITH else "without_kernels")
    return request.param
