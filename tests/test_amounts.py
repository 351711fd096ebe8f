"""Amounts as people read them."""

import pytest

from qvtune.amounts import format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_seconds_as_words(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
