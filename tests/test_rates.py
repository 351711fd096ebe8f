"""Rates are resolved once: by hand, by the method's defaults, and by what a command is given."""

from pathlib import Path

import pytest

from qvtune.errors import ConfigError, RateError
from qvtune.methods.table import METHODS
from qvtune.rates import Rates, owner_of, parse_rates, ratio_of
from qvtune.training.config import make_config


def test_a_ratio_or_a_rate_of_its_own_sets_the_value() -> None:
    assert Rates.resolve(lr=1e-3).value == 1e-3
    assert Rates.resolve(lr=1e-3, lr_ratio=8).value == 8e-3
    own = Rates.resolve(lr=1e-3, value_lr=2e-2)
    assert (own.value, own.lr_ratio) == (2e-2, 20)
    with pytest.raises(RateError, match="both set the value's rate"):
        Rates.resolve(lr=1e-3, value_lr=2e-2, lr_ratio=8)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_not_given_is_the_methods(name: str) -> None:
    method = METHODS[name]
    rates = Rates.resolve(method)
    assert (rates.lr, rates.query, rates.head) == (method.lr,) * 3
    assert rates.value == method.lr * (method.lr_ratio or 1.0)
    assert rates.b_lr_ratio == (method.b_lr_ratio or 1.0)


def test_groups_of_factors_b_have_their_own_rate() -> None:
    rates = Rates.resolve(METHODS["loraplus"], lr=1e-4)
    found = rates.by_group(["query", "value", "head"])
    assert found == pytest.approx(
        {"query": 1e-4, "value": 2e-4, "head": 1e-4, "query_b": 16e-4, "value_b": 32e-4}, rel=1e-12
    )
    assert ratio_of(found) == 2.0
    assert {owner_of(name) for name in found} == {"query", "value", "head"}


@pytest.mark.parametrize(("given", "ratio"), [({}, 4.0), ({"lr_ratio": 3}, 3.0), ({"lr": 1e-3, "value_lr": 5e-3}, 5.0)])
def test_a_configuration_resolves_them(given: dict, ratio: float) -> None:
    config = make_config({"model": "m", "data": "d.csv", "out": "o"} | given)
    assert config.rates.lr_ratio == pytest.approx(ratio)


@pytest.mark.parametrize("bad", [0, -1e-3, float("nan"), float("inf"), "1e-3", True])
def test_what_is_no_rate_is_refused(bad: object) -> None:
    with pytest.raises(RateError, match="head_lr is"):
        Rates.resolve(lr=1e-3, head_lr=bad)  # type: ignore[arg-type]


def test_a_ratio_that_means_nothing_is_refused() -> None:
    with pytest.raises(RateError, match="trains no role"):
        Rates.resolve(METHODS["head"], lr_ratio=2.0)
    with pytest.raises(RateError, match="no factors A and B"):
        Rates.resolve(METHODS["full"], b_lr_ratio=16.0)


RUN = {"model": "m", "data": "d.csv", "out": "o", "roles": "all"}


def test_a_rate_of_any_role_by_name_or_letter() -> None:
    assert parse_rates(["d=4X", "v= 2e-3", "gate=1"]) == {"value": "0.002", "gate": "1", "down": "4x"}
    rates = Rates.resolve(METHODS["full"], lr=1e-4, rates={"up": "3x", "d": 2e-5, "value": "2x"})
    found = rates.by_group(["query", "key", "value", "output", "gate", "up", "down"])
    expected = {"query": 1e-4, "key": 1e-4, "value": 2e-4, "output": 1e-4, "gate": 1e-4, "up": 3e-4, "down": 2e-5}
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_configuration_reads_rates_from_every_place(tmp_path: Path) -> None:
    config = make_config(RUN | {"rate": ["d=4x", "v=1e-2"], "lr": 1e-3})
    assert config.rate == ["value=0.01", "down=4x"]
    assert (config.rates.value, config.rates.down, config.rates.up) == pytest.approx((1e-2, 4e-3, 1e-3))
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml())
    assert make_config({}, file) == config
    file.write_text("rate: {down: 4x, v: 0.01}\nlr: 1e-3\n")
    assert make_config(RUN, file) == config
    # λ on the command line replaces nothing of a file that sets the value's rate in another way.
    file.write_text("lr_ratio: 8\n")
    assert make_config(RUN | {"rate": ["value=0.01"]}, file).rates.value == 0.01


def test_the_released_names_are_the_same_as_rate() -> None:
    released = make_config(RUN | {"value_lr": 1e-2, "query_lr": 2e-4, "key_lr": 3e-4, "output_lr": 5e-4})
    named = make_config(RUN | {"rate": ["q=2e-4", "k=3e-4", "v=1e-2", "o=5e-4"]})
    assert released.rates == named.rates


def test_rates_are_part_of_a_runs_name_only_if_given() -> None:
    plain, own = make_config(RUN), make_config(RUN | {"rate": ["up=4x"]})
    assert make_config(RUN | {"rate": []}).fingerprint() == plain.fingerprint() != own.fingerprint()
    assert make_config(RUN | {"rate": ["u=4.0x"]}).fingerprint() == own.fingerprint()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"rate": ["upp=1e-3"]}, r"unknown role 'upp'\. Did you mean 'u'\?"),
        ({"rate": ["up"]}, r"rate 'up=': it must be a finite number above 0, as in up=2e-4, or a multiple"),
        ({"rate": ["up=fast"]}, "rate 'up=fast': it must be a finite number above 0"),
        ({"rate": ["up=-1"]}, "must be a finite number above 0"),
        ({"rate": ["up=nanx"]}, "must be a finite number above 0"),
        ({"rate": ["up=1e-3", "u=2x"]}, "the up's rate is given twice, as 0.001 and as 2x"),
        ({"rate": ["up=4x"], "roles": "qv"}, "--rate up is given, and --roles is qv: the up does not train"),
        ({"rate": ["v=4x"], "lr_ratio": 2}, "--rate value and --lr-ratio both set the value's rate"),
        ({"rate": ["v=4x"], "value_lr": 2e-3}, "--rate value and --value-lr both set the value's rate"),
        ({"rate": ["q=4x"], "query_lr": 2e-3}, "--rate query and --query-lr both set the query's rate"),
        ({"rate": ["q=4x"], "method": "head", "roles": None}, "--rate is given, and --method head trains the head"),
    ],
)
def test_a_bad_rate_of_a_role_is_refused(options: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_config(RUN | options)


def test_two_rates_of_one_role_are_refused() -> None:
    with pytest.raises(RateError, match="rate value=4x and lr_ratio both set the value's rate"):
        Rates.resolve(lr=1e-3, lr_ratio=2.0, rates={"v": "4x"})
    with pytest.raises(RateError, match="rate query=4x and query_lr both set the query's rate"):
        Rates.resolve(lr=1e-3, query_lr=2e-3, rates={"q": "4x"})
