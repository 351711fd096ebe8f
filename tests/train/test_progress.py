"""Progress with and without a terminal."""

import io

import pytest
from rich.console import Console

from qvtune.amounts import format_seconds
from qvtune.train import progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_seconds_as_words(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize("terminal", [True, False])
def test_track_yields_everything_and_says_how_far_it_is(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120)
    assert list(progress.track(iter("abc"), 5, 2, "scoring", console)) == ["a", "b", "c"]
    shown = out.getvalue()
    assert "scoring" in shown
    assert "examples/s" in shown
    assert "5/5" in shown
    assert terminal or "scoring 4/5" in shown
