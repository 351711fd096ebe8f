"""The fast path as on a machine that has no compiler."""

import pytest

from qvtune.fast import frozen
from qvtune.fast.cpu.native import library


def leave_out_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "load_kernels", lambda: None)
    monkeypatch.setattr(frozen, "has_tiles", lambda: False)
