"""Rates are resolved once: by hand, by the method's defaults, and by what a command is given."""

import pytest

from qvtune.errors import RateError
from qvtune.methods.table import METHODS
from qvtune.rates import Rates, owner_of, ratio_of
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
