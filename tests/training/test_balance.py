"""Warnings of a side that starves or blows up: on made-up logs, and in runs."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny import save_tiny_bert, write_reviews

from qvtune.training.balance import (
    ALL,
    BLOWN,
    GROWN,
    GROWTH,
    MOVED,
    SIDES,
    STARVED,
    STILL,
    USUAL,
    USUAL_MOVED,
    WINDOW,
    side_warnings,
)
from qvtune.training.config import TrainConfig, make_config
from qvtune.training.run import run

CALM = [1e-3, 1.2e-3, 9e-4, 8e-4, 5e-4]


def log(value: Iterable[float] | None, ours: Iterable[float] | None, part: str = "query", **rates: float) -> list[dict]:
    """Lines with the change of the output through the value and through query or key; evaluations between them."""
    lines = []
    for number in range(5):
        line = {"step": 10 * (number + 1), "loss": 0.5, "lr/value": 1e-3, "lr/query": 2e-4} | rates
        line |= {} if value is None else {"output/value": list(value)[number]}
        line |= {} if ours is None else {f"output/{part}": list(ours)[number]}
        lines += [line, {"step": 10 * (number + 1), "eval_loss": 0.4}]
    return lines


def config(**options: object) -> TrainConfig:
    return make_config({"model": "m", "data": "d", "out": "o"} | options)


def found(lines: list[dict], steps: int = 50, told: Iterable[str] = (), **options: object) -> dict[str, tuple]:
    """The first warning by side: the step after whose line it came, and its text."""
    known, result = set(told), {}
    for number, line in enumerate(lines):
        if "loss" in line:
            for side, text in side_warnings(lines[: number + 1], config(**options), steps, known).items():
                result[side] = (line["step"], text)
                known.add(side)
    return result


def times(factor: float) -> list[float]:
    return [factor * change for change in CALM]


@pytest.mark.parametrize("share", [1 / 200, 1 / 20, 1])
def test_balanced_sides_give_no_warning(share: float) -> None:
    assert found(log(CALM, times(share))) == {}
    assert found(log(CALM, times(share), "key")) == {}
    assert found(log(times(share), CALM)) == {}
    assert found(log(times(100 * share), times(100))) == {}


@pytest.mark.parametrize("part", ["query", "value"])
def test_a_side_alone_cannot_starve(part: str) -> None:
    lines = log(CALM, None) if part == "value" else log(None, CALM)
    assert found(lines) == {}


def test_a_value_that_starves() -> None:
    step, text = found(log(times(1e-3), CALM), value_lr=1e-7)["value"]
    assert step == 10 * WINDOW
    assert text == (
        "Warning: the value starves. In 3 logged steps up to step 30 it changed the output of attention layers less "
        "than 1/1,000 as much as query and key did. Raise --value-lr (now 1e-07) by a factor of 30 or more."
    )
    assert "Raise --lr-ratio (now 0.01) by" in found(log(times(1e-3), CALM), lr_ratio=0.01)["value"][1]


def test_a_query_that_starves() -> None:
    lines = log(CALM, times(1e-3), "query_key")
    assert found(lines, lr_ratio=16)["query_key"] == (
        30,
        "Warning: query and key starve. In 3 logged steps up to step 30 they changed the output of attention layers "
        "less than 1/1,000 as much as the value did. Lower --lr-ratio (now 16) by a factor of 30 or more.",
    )
    assert "Raise --lr (now 1e-08) by" in found(lines, lr=1e-8, value_lr=1e-3)["query_key"][1]
    assert "Raise --query-lr (now 1e-09) by" in found(lines, query_lr=1e-9, value_lr=1e-3)["query_key"][1]
    high = log(times(100), times(0.1), "query_key")
    assert "Lower --value-lr (now 0.01) by" in found(high, value_lr=1e-2)["query_key"][1]
    assert "Lower --lr (now 0.01) by" in found(log(times(0.1), times(100)), lr=1e-2, value_lr=1e-6)["value"][1]


def test_adalora_shares_ranks_out_by_itself() -> None:
    assert found(log(CALM, times(1e-3)), method="adalora") == {}
    assert "value" in found(log([0.5] * 5, CALM), method="adalora")


def test_both_count_together_where_query_and_key_train() -> None:
    """A query without effect is no starved side as long as the key has some."""
    lines = [line | {"output/query": 1e-9, "output/key": 1e-4} for line in log(CALM, times(0.1), "query_key")]
    assert found(lines) == {}


def test_one_step_that_starves_is_none() -> None:
    assert found(log([1e-3, 1e-6, 1e-6, 1e-3, 1e-6], CALM)) == {}
    assert "value" in found(log([1e-3, 1e-6, 1e-6, 1e-6, 1e-3], CALM))


def test_a_side_that_blows_up() -> None:
    lines = [line | {"update/value": 0.5} for line in log([1e-3, 0.4, 0.01, 0.3, 0.01], times(1e-4))]
    result = found(lines, lr=4e-4, lr_ratio=64)
    assert result.keys() == {"value"}  # of which query and key fall short is no starving
    assert result["value"] == (
        20,
        "Warning: the value blows up: step 20 changed the output of attention layers by 40% of its norm through it, "
        "where up to 3% is usual. Lower --lr-ratio (now 64) by a factor of 10.",
    )
    high = log([0.6] * 5, [0.3] * 5)
    assert "Lower --lr (now 0.05) by a factor of 20." in found(high, lr=0.05, lr_ratio=4)["value"][1]
    assert "Lower --value-lr (now 0.1)" in found(high, value_lr=0.1)["value"][1]
    assert "through them" in found(high)["query_key"][1]
    assert "Lower --lr (now 0.05) by a factor of 10." in found(high, lr=0.05, lr_ratio=4)["query_key"][1]
    assert found(high, told=["value", "query_key"]) == {}


def test_weights_that_have_moved_too_far() -> None:
    """When the weights have grown, a step changes little of what they give."""
    assert found([line | {"update/value": 0.9} for line in log(times(100), CALM)]) == {}
    moved = found([line | {"update/value": 10.0} for line in log(times(100), CALM)], value_lr=0.1)
    assert moved.keys() == {"value"}
    assert moved["value"][1] == (
        "Warning: the value blows up: up to step 10 its weights have moved by 1000% of their norm, where up to 10% is "
        "usual. Lower --value-lr (now 0.1) by a factor of 100."
    )
    both = found([line | {"update/value": 2.0} for line in log([0.5] * 5, CALM)])["value"][1]
    assert (
        "50% of its norm through it, where up to 3% is usual; and up to step 10 its weights have moved by 200%" in both
    )
    assert found([line | {"update/key": 2.0} for line in log(CALM, CALM, "query_key")]).keys() == {"query_key"}


def test_a_side_that_grows_steadily() -> None:
    growing = [0.002, 0.006, 0.014, 0.029, 0.07]
    step, text = found(log(growing, CALM))["value"]
    assert step == 50
    assert (
        "blows up: steps changed the output ever more, over 1.5 times as much from each logged step to the next by the "
        "same rate, and step 50 changed the output of attention layers by 7% of its norm through it, where"
    ) in text
    # As in warmup, with the rates.
    lines = [line | {"lr/value": 1e-4 * 2 ** (line["step"] / 10)} for line in log(growing, CALM)]
    assert found(lines) == {}
    assert found(log([0.02, 0.03, 0.05, 0.06, 0.07], CALM)) == {}


def test_nothing_that_moves() -> None:
    lines = log([2e-6] * 5, [7e-7] * 5)
    assert found(lines, lr=1e-6, lr_ratio=1) == {
        "all": (
            30,
            "Warning: nothing moves. At the pace of the logged steps up to step 30, all 50 steps together change the "
            "output of attention layers by 0.0001 of its norm at most. "
            "Raise --lr (now 1e-06) by a factor of 200 or more.",
        )
    }
    assert "Raise --lr (now 1e-06) and --value-lr (now 1e-07) by" in found(lines, lr=1e-6, value_lr=1e-7)["all"][1]
    assert "Raise --value-lr (now 1e-07) by" in found(log([2e-6] * 5, None), roles="v", value_lr=1e-7)["all"][1]
    assert found(lines, steps=50_000) == {}


def test_the_page_has_the_limits() -> None:
    text = " ".join((Path(__file__).resolve().parents[2] / "docs" / "rates.md").read_text(encoding="utf-8").split())
    assert f"changes the output by at most {USUAL:g} of its norm" in text
    assert f"moves the weights by at most {USUAL_MOVED:g} of theirs" in text
    assert f"changed the output less than 1/{1 / STARVED:.0f} as much as the other" in text
    assert f"changed the output by more than {BLOWN:g} of its norm" in text
    assert f"three times in a row, to at least {GROWN:g}" in text
    assert f"change the output by less than {STILL:g} of its norm" in text
    assert (WINDOW, GROWTH, MOVED) == (3, 1.5, 1)  # which it has in words


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("balance")
    save_tiny_bert(place / "bert")
    weights = load_file(place / "bert" / "model.safetensors")
    # In a model that was never trained all weigh all alike, and a query changes next to nothing.
    sharp = {name: 20 * value if ".query." in name or ".key." in name else value for name, value in weights.items()}
    save_file(sharp, place / "bert" / "model.safetensors", metadata={"format": "pt"})
    write_reviews(place / "reviews.csv", 60)
    return place


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"lr": 5e-4}, {}),
        ({"lr": 5e-4, "roles": "v"}, {}),
        ({"lr": 2e-3, "roles": "k"}, {}),
        ({"lr": 2e-3, "method": "bitfit"}, {}),
        ({"lr": 2e-3, "method": "bitfit", "roles": "kv"}, {}),
        ({"lr": 2e-3, "method": "head"}, {}),
        ({"lr": 2e-3, "value_lr": 1e-7}, {"value": "the value starves"}),
        ({"lr": 1e-7, "value_lr": 2e-3}, {"query_key": "query and key starve"}),
        ({"lr": 1e-7, "lr_ratio": 1}, {"all": "nothing moves"}),
        ({"lr": 2e-3, "value_lr": 0.5}, {"value": "the value blows up"}),
    ],
)
def test_warnings_of_a_run(options: dict, warned: dict[str, str], place: Path, tmp_path: Path) -> None:
    """They are printed once, and kept in the log and the result."""
    settings = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "out": str(tmp_path / "run")}
    settings |= {"batch_size": 8, "epochs": 2, "logging_steps": 2, "precision": "fp32", "head_lr": 1e-3}
    if options.get("method") == "head":
        settings.pop("head_lr")
    console = Console(record=True, width=1000, quiet=False, file=open(tmp_path / "console", "w"))  # noqa: SIM115
    result = run(make_config(settings | options), console)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = {about: text for line in lines for about, text in line.get("warnings", {}).items()}
    # On six validation examples others are given too, of which tests/training/test_verdict.py speaks.
    kept = {about: text for about, text in told.items() if about in (*SIDES, ALL)}
    assert kept.keys() == warned.keys()
    assert all(f"Warning: {start}" in kept[side] for side, start in warned.items())
    assert result["warnings"][: len(kept)] == list(kept.values())
    printed = console.export_text()
    assert all(printed.count(text) == 1 for text in kept.values())
    assert printed.count("output of attention layers") == len(kept)
