"""Compiling the kernels: once, for this processor, and doing without."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qvtune.fast.cpu.native import build, compiler
from qvtune.fast.cpu.native.compiler import VARIANTS
from qvtune.fast.cpu.native.library import has_kernels


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QVTUNE_CACHE", str(tmp_path / "empty"))
    return tmp_path / "empty" / "kernels"


@pytest.mark.usefixtures("with_compiler")
def test_compiled_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build.find_kernels()
    assert path is not None
    assert [file.name for file in empty_cache.iterdir()] == [path.name]
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("compiled again"))
    assert build.find_kernels() == path


@pytest.mark.usefixtures("with_compiler")
def test_other_flags_are_another_library(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcc = build.find_compiler()
    assert gcc is not None
    key = build._key(gcc, "-march=native")
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DX"))
    assert build._key(gcc, "-march=native") != key


@pytest.mark.usefixtures("with_compiler")
def test_a_compiler_that_fails_is_told_of(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "FLAGS", ("-no-such-flag",))
    with caplog.at_level(logging.WARNING):
        assert build.find_kernels() is None
    assert "could not be compiled" in caplog.text
    assert "no-such-flag" in caplog.text
    assert not list(empty_cache.iterdir())


@pytest.mark.usefixtures("with_compiler")
def test_where_nothing_can_be_cached_they_go_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    undo: list[Callable[[], None]] = []
    monkeypatch.setattr(build, "cached_file", lambda *_: None)
    monkeypatch.setattr(build.atexit, "register", undo.append)
    path = build.find_kernels()
    assert path is not None
    assert path.is_file()
    undo[0]()
    assert not path.parent.exists()


def test_without_a_compiler_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SHIPPED", tmp_path / "none")
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    assert build.find_kernels() is None


def test_other_compilers_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(compiler.shutil, "which", lambda name: asked.append(name))
    gcc = "/usr/bin/x86_64-linux-gnu-g++-12"
    for named, wanted in (("", ["g++"]), ("clang++", ["g++"]), (gcc, [gcc, "g++"])):
        monkeypatch.setenv("CXX", named)
        build.find_compiler()
        assert asked == wanted
        asked.clear()


@pytest.mark.usefixtures("with_kernels")
def test_they_compute_in_two_types_on_the_cpu() -> None:
    assert has_kernels(torch.zeros(1))
    assert has_kernels(torch.zeros(1, dtype=torch.bfloat16))
    assert not has_kernels(torch.zeros(1, dtype=torch.float64))
    assert not has_kernels(torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16))
    assert not has_kernels(torch.zeros(1, device="meta"))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of that with a wheel's kernels, and no compiler."""
    monkeypatch.setattr(build, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    monkeypatch.delenv("QVTUNE_ISA", raising=False)
    (tmp_path / "shipped").mkdir()
    return tmp_path / "shipped"


@pytest.mark.parametrize(
    ("has", "isa", "expected"),
    [
        ("amx", "native", "amx"),
        ("avx512_bf16", "native", "avx512_bf16"),
        ("avx512", "native", "avx512"),
        ("avx2", "native", "avx2"),
        (None, "native", None),
        ("amx", "avx512", "avx512"),
        ("amx", "avx2", "avx2"),
        ("amx", "sse4", None),
        ("avx2", "avx512", None),
    ],
)
def test_a_wheels_kernels_are_the_best_that_the_processor_can_run(
    has: str | None, isa: str, expected: str | None, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIANTS:
        (shipped / f"{name}.so").touch()
    monkeypatch.setattr(build, "linux_flags", lambda: VARIANTS[has].needs if has else frozenset({"sse2"}))
    monkeypatch.setattr(build, "instruction_set", lambda: isa)
    assert build.find_kernels() == (shipped / f"{expected}.so" if expected else None)


def test_a_wheel_with_fewer_kernels(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shipped / "avx2.so").touch()
    monkeypatch.setattr(build, "linux_flags", lambda: VARIANTS["amx"].needs)
    assert build.find_kernels() == shipped / "avx2.so"
