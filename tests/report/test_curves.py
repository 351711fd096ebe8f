"""The curves of a run."""

import numpy as np
import pytest

from qvtune.report.curves import run_charts

# Losses of 27 steps, one by one.
LOSSES = np.random.default_rng(0).normal(size=27)


def logged(*steps: int) -> list[dict]:
    """Records as a run writes them: the mean since the last one."""
    starts = (0, *steps[:-1])
    return [{"step": end, "loss": float(LOSSES[start:end].mean())} for start, end in zip(starts, steps, strict=True)]


@pytest.mark.parametrize(
    ("steps", "windows"),
    [
        ((5, 10, 15, 20, 25), [5, 10, 15, 20, 25]),
        ((5, 10, 12, 15, 20, 24, 25), [5, 10, 15, 20, 25]),  # evaluated after 12 and 24 steps
        ((5, 9, 10, 15, 18, 20, 25, 27), [5, 10, 15, 20, 27]),  # what is left at the end is too short for itself
        ((3,), [3]),
    ],
)
def test_the_training_loss_has_windows_of_one_length(steps: tuple, windows: list) -> None:
    records = [*logged(*steps), {"step": steps[-1], "eval_loss": 0.5}]
    training, validation = run_charts(records, "accuracy")[0].series
    assert training.x == windows
    starts = [0, *windows[:-1]]
    wanted = [LOSSES[start:end].mean() for start, end in zip(starts, windows, strict=True)]
    np.testing.assert_allclose(training.y, wanted, rtol=1e-12)
    assert (validation.x, validation.y) == ([steps[-1]], [0.5])


def test_a_run_without_losses_has_an_empty_chart() -> None:
    assert run_charts([{"step": 1, "eval_loss": 2.0}], "accuracy")[0].series[0].name == "validation"
    assert run_charts([], "accuracy")[0].series == []
