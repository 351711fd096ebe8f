"""What is given to a public call is of the right type, or is named in an error of ours."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import build

import qvtune
from qvtune.errors import QVTuneError


def fresh() -> Any:
    return build("bert")


def adapted() -> Any:
    return qvtune.adapt(fresh())


CALLS: dict[str, Callable[[], Any]] = {
    "head is 5; it must be a list of names": lambda: qvtune.adapt(fresh(), head=5),
    "head is [5]; it must be a list of names": lambda: qvtune.adapt(fresh(), head=[5]),
    "head is 'classifier'; it must be a list of names": lambda: qvtune.adapt(fresh(), head="classifier"),
    "unknown method '5'": lambda: qvtune.adapt(fresh(), method=5),
    "rank is 100000000; it must be at most 65536": lambda: qvtune.adapt(fresh(), method="vera", rank=10**8),
    "model is a int; load it first": lambda: qvtune.adapt(5),
    "model is a str; load it first": lambda: qvtune.param_groups("bert", lr=1e-3),
    "model is a NoneType; load it first": lambda: qvtune.restore(None),
    "model is a float; load it first": lambda: qvtune.count_parameters(5.0),
    "model is a list; load it first": lambda: qvtune.find_attention([]),
    "model is a dict; load it first": lambda: qvtune.make_fast({}),
    "model is a tuple; load it first": lambda: qvtune.undo_fast(()),
    "model is a bytes; load it first": lambda: qvtune.load_adapter(b"", Path("adapter")),
    "folder is 5, a int; it must be a path": lambda: qvtune.load_adapter(fresh(), 5),
    "folder is None, a NoneType; it must be a path": lambda: qvtune.save_adapter(adapted(), None),
    "weight_decay is 'x', a str; it must be a number": lambda: qvtune.param_groups(adapted(), lr=1, weight_decay="x"),
    "lr is None, a NoneType; it must be a number": lambda: qvtune.param_groups(adapted(), lr=None),
    "head_lr is [1], a list; it must be a number": lambda: qvtune.param_groups(adapted(), lr=1e-3, head_lr=[1]),
    "b_lr_ratio is '16', a str; it must be a number": lambda: qvtune.param_groups(adapted(), lr=1e-3, b_lr_ratio="16"),
}


@pytest.mark.parametrize(("message", "call"), CALLS.items(), ids=CALLS.keys())
def test_wrong_types_are_named(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(QVTuneError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_adapt_warns_of_nothing() -> None:
    model = fresh()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        qvtune.adapt(model)
