"""Progress with a bar and with lines: how far training, scoring, searching and an experiment are."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from qvtune import progress
from qvtune.progress import Meter, track
from qvtune.training.callbacks import Progress
from qvtune.training.shown import ProgressReport


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that a test sets."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.seconds)
    return clock


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("unit", ["", "examples"])
def test_all_parts_come_through(terminal: bool, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    out = console(terminal=terminal)
    assert list(track(iter("abc"), 5, "scoring", out, size=2, unit=unit)) == ["a", "b", "c"]
    shown = out.file.getvalue()
    assert "scoring" in shown
    assert "5/5" in shown
    assert ("examples/s" in shown) is bool(unit)
    assert ("scoring 4/5, " in shown and " s left\n" in shown) is not terminal


def test_lines_are_rare(now: SimpleNamespace) -> None:
    out = console()
    for _ in track(range(50), 50, "layers", out):
        now.seconds += 1
    assert out.file.getvalue().splitlines() == [
        "layers 10/50, 40 s left",
        "layers 20/50, 30 s left",
        "layers 30/50, 20 s left",
        "layers 40/50, 10 s left",
        "layers 50/50, 0 s left",
    ]


def test_a_slow_first_part_counts_for_no_speed(now: SimpleNamespace) -> None:
    """The first step of a run compiles and fills caches."""
    out = console()
    meter = Meter("step", 100, out, unit="examples", size=8)
    now.seconds = 12
    meter.show(1)  # nothing else is known yet
    for step in range(2, 13):
        now.seconds += 1
        meter.show(step)
    assert out.file.getvalue().splitlines() == [
        "step 1/100, 0.7 examples/s, 19 min 48 s left",
        "step 11/100, 8.0 examples/s, 1 min 29 s left",
    ]


def test_what_was_done_before_counts_for_no_speed(now: SimpleNamespace) -> None:
    out = console()
    meter = Meter("step", 140, out, unit="examples", size=8, done=100)
    now.seconds = 20
    meter.show(110, "loss 0.5")
    assert out.file.getvalue() == "step 110/140, loss 0.5, 4.0 examples/s, 1 min 0 s left\n"


def test_parts_of_steps_count(now: SimpleNamespace) -> None:
    out = console()
    with Meter("searching, step", 30, out, unit="steps") as search:
        for spent in (1.0, 1.5, 15.0):
            search.show(spent)
            now.seconds += 6
    assert out.file.getvalue() == "searching, step 15/30, 1.2 steps/s, 13 s left\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_training_and_its_evaluations(terminal: bool, now: SimpleNamespace) -> None:
    out = console(terminal=terminal)
    report = ProgressReport(out, 4)
    run = Progress(steps=20, epochs=2.0, metric="eval_accuracy", epoch=0.5)
    report.begin(run)
    report.logged(0.25)
    now.seconds, run.step = 10, 5
    report.step(run)
    for _ in range(2):  # each counts its own batches
        for place, _ in enumerate(report.evaluating(iter("abcd"), 4), 1):
            now.seconds += 5 * (1 < place < 4)
    report.evaluated(run, {"accuracy": 0.75})
    report.close()
    lines = [line.removeprefix("\x1b[2K") for line in out.file.getvalue().splitlines()]
    assert lines.count("evaluating, batch 3/4, 5.0 s left") == 2
    assert "epoch 0.50, step 5: accuracy 0.7500" in lines
    assert ("step 5/20, loss 0.2500, 2.0 examples/s, 30 s left" in lines) is not terminal
    assert any("step" in line and "loss 0.2500, 2.0 examples/s" in line for line in lines)


@pytest.mark.parametrize(("settings", "shows"), [({}, True), ({"quiet": True}, False)])
def test_a_notebook_shows_a_bar_unless_it_is_to_be_quiet(
    settings: dict, shows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Console(force_jupyter=True, file=io.StringIO(), **settings)
    started: list[bool] = []
    monkeypatch.setattr("rich.progress.Progress.start", lambda bar: started.append(bar.live.transient))
    with Meter("scoring", 3, out):
        pass
    assert started == ([True] if shows else [])  # which leaves its place when it is done
