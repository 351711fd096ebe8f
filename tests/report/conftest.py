"""Stores and a run, trained once for all tests of the pictures."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stores

from qvtune.lab.outcome import FINISHED, Outcome
from qvtune.lab.store import Store
from qvtune.training.folder import RunFolder

Make = Callable[..., Outcome]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, made_once: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QVTUNE_CACHE", str(made_once))
        yield tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session")
def options(place: Path) -> dict[str, Any]:
    return stores.make_model(place)


@pytest.fixture(scope="session")
def sweep(place: Path, options: dict[str, Any]) -> Store:
    return stores.make_sweep(place / "sweep", options)


@pytest.fixture(scope="session")
def comparison(place: Path, options: dict[str, Any]) -> Store:
    return stores.make_comparison(place / "comparison", options)


@pytest.fixture(scope="session")
def single(place: Path, options: dict[str, Any]) -> RunFolder:
    folder = RunFolder(place / "single")
    stores.train(folder, options | {"lr": 3e-3})
    return folder


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes an outcome of labels, its metric and a curve of (step, accuracy, seconds)."""

    def outcome(labels: dict, metric: float | None = None, curve: tuple = (), **others: Any) -> Outcome:
        folder = RunFolder(tmp_path / f"{len(list(tmp_path.iterdir())):016x}")
        folder.path.mkdir()
        names = ("step", "eval_accuracy", "seconds")
        folder.metrics.write_text("".join(json.dumps(dict(zip(names, point, strict=True))) + "\n" for point in curve))
        result = {"main_metric": "accuracy", "metrics": {} if metric is None else {"accuracy": metric}}
        result["trainable_parameters"] = {"total": others.pop("parameters", 100) + 10, "head": 10}
        return Outcome(folder.path.name, labels, folder, others.get("status", FINISHED), others.get("reason"), result)

    return outcome
