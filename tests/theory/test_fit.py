"""Exponents against scipy-free formulas, and the words for them."""

import numpy as np
import pytest

from qvtune.theory.fit import Exponent, fit_exponent
from qvtune.theory.predict import verdict

WIDTHS = [64, 256, 1024, 4096]


def test_an_exact_power_law() -> None:
    sizes = 3 * np.array(WIDTHS, dtype=float)[:, None] ** [-0.5] * np.ones((1, 4))
    fitted = fit_exponent(WIDTHS, sizes)
    assert fitted.slope == pytest.approx(-0.5, abs=1e-12)
    assert fitted.high - fitted.low < 1e-6
    assert fitted.points == 16


def test_slope_and_interval_are_those_of_the_textbook() -> None:
    sizes = np.exp(np.random.default_rng(0).normal(size=(4, 6))) * np.array(WIDTHS)[:, None]
    fitted = fit_exponent(WIDTHS, sizes)
    x, y = np.repeat(np.log(WIDTHS), 6), np.log(sizes).ravel()
    dx = x - x.mean()
    slope = (dx * y).sum() / (dx**2).sum()
    rest = y - y.mean() - slope * dx
    error = np.sqrt((rest**2).sum() / 22 / (dx**2).sum())
    assert fitted.slope == pytest.approx(slope, rel=1e-12)
    # Student's t at 97.5 % with 22 degrees of freedom, from a printed table.
    assert fitted.high - slope == pytest.approx(2.074 * error, rel=1e-3)
    assert slope - fitted.low == pytest.approx(2.074 * error, rel=1e-3)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    laws = [fit_exponent(WIDTHS, np.exp(random.normal(size=(4, 5)))) for _ in range(400)]
    assert 0.92 <= np.mean([law.low <= 0 <= law.high for law in laws]) <= 0.98


@pytest.mark.parametrize("wrong", [0.0, np.nan, np.inf])
def test_no_power_law(wrong: float) -> None:
    sizes = np.ones((4, 3))
    sizes[2, 1] = wrong
    assert fit_exponent(WIDTHS, sizes) is None


@pytest.mark.parametrize(
    ("slope", "half", "word"),
    [
        (0.0, 0.05, "learns"),
        (0.13, 0.05, "learns"),
        (0.2, 0.05, "blows up"),
        (2.0, 0.4, "blows up"),
        (-0.5, 0.1, "starves"),
        (0.3, 0.3, "undecided"),
        (-0.1, 0.6, "undecided"),
    ],
)
def test_verdict(slope: float, half: float, word: str) -> None:
    exponent, flat = Exponent(slope, slope - half, slope + half, 9), Exponent(0.0, -0.01, 0.01, 9)
    assert verdict({"scores": exponent, "values": flat}) == {"query_key": word, "value": "learns"}
    assert verdict({"scores": None, "values": exponent}) == {"query_key": "stops", "value": word}
