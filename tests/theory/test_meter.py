"""Progress: every task comes through, and the time left is told with and without a terminal."""

import io

import pytest
from rich.console import Console

from qvtune.theory import meter


@pytest.mark.parametrize("terminal", [True, False])
def test_tasks_and_time_left(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "LINE_SECONDS", 0.0)
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80)
    assert list(meter.track(["a", "b", "c"], "layers", console)) == ["a", "b", "c"]
    printed = file.getvalue()
    assert "layers" in printed
    assert "3/3" in printed
    assert ("layers 1/3, " in printed and " s left" in printed) is not terminal


def test_lines_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    assert list(meter.track(range(50), "layers", Console(file=file))) == list(range(50))
    assert file.getvalue().strip() == ""
