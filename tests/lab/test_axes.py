"""Axes: how they are written, what is refused, and which runs they make."""

from pathlib import Path

import pytest

from qvtune.errors import ConfigError
from qvtune.lab.axes import check_axes, combinations, parse_axes, read_axes


def test_axes_are_read_from_the_command_line() -> None:
    assert parse_axes(["lr=1e-4,4e-4", "--lr-ratio=1, 4", "layers=0,1;2,3", "roles=qv"]) == {
        "lr": ["1e-4", "4e-4"],
        "lr_ratio": ["1", "4"],
        "layers": ["0,1", "2,3"],
        "roles": ["qv"],
    }


@pytest.mark.parametrize("text", ["lr", "=1", "lr:1"])
def test_a_malformed_axis(text: str) -> None:
    with pytest.raises(ConfigError, match="write OPTION=VALUE"):
        parse_axes([text])


def test_an_axis_that_comes_twice() -> None:
    with pytest.raises(ConfigError, match="--axis lr is given twice"):
        parse_axes(["lr=1e-4", "lr=2e-4"])


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({"lrr": [1]}, {}, "unknown option. Did you mean 'lr'"),
        ({"lr": []}, {}, "has no values"),
        ({"out": ["a"]}, {}, "changes no result"),
        ({"report_to": ["wandb"]}, {}, "changes no result"),
        ({"logging_steps": [1, 2]}, {}, "changes no result"),
        ({"lr": 1e-4}, {}, r"is 0\.0001, and must be a list of values, as in \[0\.0001\]"),
        ({"lr": ["1e-4"]}, {"lr": "2e-4"}, "--lr 2e-4 is given too"),
        ({"lr_ratio": [1], "value_lr": [1e-3]}, {}, "set the same thing"),
        ({"lr_ratio": [1]}, {"value_lr": 1e-3}, "--value-lr 0.001 is given too"),
        ({"task": ["rte"]}, {"data": "x.csv"}, "--data x.csv is given too"),
    ],
)
def test_axes_that_make_no_sense(axes: dict, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_axes(axes, options)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        check_axes({"lrr": [1], "seed": []}, {})
    assert len(str(error.value).splitlines()) == 2


def test_every_combination_is_a_run() -> None:
    assert combinations({"lr": [1, 2], "seed": [0, 1]}) == [
        {"lr": 1, "seed": 0},
        {"lr": 1, "seed": 1},
        {"lr": 2, "seed": 0},
        {"lr": 2, "seed": 1},
    ]


@pytest.mark.parametrize("value", [["lr"], {"lr": 1e-4}, "lr"])
def test_axes_of_a_file_that_are_none(value: object) -> None:
    with pytest.raises(ConfigError, match=r"grid\.yaml: axes must hold"):
        read_axes(value, Path("grid.yaml"))
