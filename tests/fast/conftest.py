"""The fast path with its kernels and without them, as on a machine that has no compiler."""

import pytest
from kernels import leave_out_kernels

from qvtune.fast.cpu.native import library
from qvtune.fast.cpu.native.build import find_compiler

WITH, WITHOUT = "kernels", "torch"


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_kernels(monkeypatch)


@pytest.fixture
def with_kernels() -> None:
    if find_compiler() is None:
        pytest.skip("no GCC on Linux here to compile the kernels")
    assert library.load_kernels() is not None, "GCC is here and the kernels were not compiled"


@pytest.fixture(params=[WITH, WITHOUT])
def either(request: pytest.FixtureRequest) -> str:
    request.getfixturevalue("with_kernels" if request.param == WITH else "without_kernels")
    return request.param
