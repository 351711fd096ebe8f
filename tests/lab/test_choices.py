"""`--methods`, `--tasks` and `--seeds`: what is read, and what is refused."""

import pytest

from qvtune.errors import ConfigError
from qvtune.lab.choices import overlay, parse_methods, parse_seeds, parse_tasks, untaken


def test_methods_with_options_of_their_own() -> None:
    found = parse_methods("lora, lora:rank=16+lr-ratio=2 ,full:lr=5e-05,lora:alpha=1e+1+layers=0-1")
    assert [contender.name for contender in found] == [
        "lora",
        "lora:rank=16+lr_ratio=2",
        "full:lr=5e-05",
        "lora:alpha=1e+1+layers=0-1",
    ]
    assert found[1].options == {"method": "lora", "rank": "16", "lr_ratio": "2"}
    assert found[3].options == {"method": "lora", "alpha": "1e+1", "layers": "0-1"}
    assert parse_methods(["lora:layers=0,1"])[0].options["layers"] == "0,1"


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("lorra", "unknown method 'lorra'. Did you mean 'lora'?"),
        ("lora,full,lora", "'lora' occurs twice"),
        ("lora:rnak=8", "unknown option 'rnak=8'. Did you mean 'rank'?"),
        ("lora:16", "Write options as in lora:rank=16+lr_ratio=2"),
        ("lora:", "ends after the colon"),
        ("lora:rank=8+rank=16", "gives rank twice"),
        ("lora:seed=3", "unknown option 'seed=3'"),
        (" , ", "--methods is empty"),
    ],
)
def test_bad_methods(methods: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_methods(methods)
    assert message in str(error.value)


def test_tasks() -> None:
    assert parse_tasks("rte, glue/mrpc") == ["rte", "mrpc"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [("rtee", "Did you mean 'rte'?"), ("rte,glue/rte", "'rte' occurs twice"), ("", "--tasks is empty")],
)
def test_bad_tasks(tasks: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_tasks(tasks)
    assert message in str(error.value)


def test_seeds() -> None:
    assert parse_seeds("3") == parse_seeds(3) == [0, 1, 2]
    assert parse_seeds("1,5,7") == parse_seeds([1, 5, 7]) == [1, 5, 7]
    assert parse_seeds("4,") == [4]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("0", "leaves no run"),
        (0, "leaves no run"),
        ([], "leaves no run"),
        ("", "it should be how many"),
        ("1,x", "it should be how many"),
        ("-1", "it should be how many"),
        ("1,1", "'1' occurs twice"),
    ],
)
def test_bad_seeds(seeds: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_seeds(seeds)
    assert message in str(error.value)


def test_an_option_that_only_some_methods_take() -> None:
    shared = {"rank": "4", "lr": "1e-3", "dropout": "0"}
    assert untaken("full", shared, ["lora", "full"]) == ["rank", "dropout"]
    assert untaken("lora", shared, ["lora", "full"]) == []
    # Of no use to any method here: left for the run's own check to refuse.
    assert untaken("full", shared, ["full"]) == []


def test_a_bad_value_is_not_taken_for_an_option_without_meaning() -> None:
    assert untaken("lora", {"rank": "-3", "lr": "nonsense"}, ["lora", "full"]) == []


def test_own_options_replace_shared_ones() -> None:
    shared = {"lr": "1", "lr_ratio": "2", "batch_tokens": "512"}
    assert overlay(shared, {"value_lr": "3", "lr": "4"}) == {"lr": "4", "value_lr": "3", "batch_tokens": "512"}
    assert overlay(shared, {"batch_size": "8"}) == {"lr": "1", "lr_ratio": "2", "batch_size": "8"}
