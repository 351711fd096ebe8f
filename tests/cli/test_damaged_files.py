"""Files of our own that were cut or edited: one message that names the file, and never a traceback."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny_bert, write_reviews

from qvtune.cli.main import main

ADAPTATION, WEIGHTS = "adapter/qvtune.json", "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("damaged")
    save_tiny_bert(place / "bert")
    write_reviews(place / "reviews.csv", 40)
    words = f"--model {place}/bert --data {place}/reviews.csv --max-steps 2"
    assert main(f"train {words} --out {place}/run".split()) == 0
    assert main(f"sweep {words} --axis lr=1e-3,2e-3 --out {place}/sweep".split()) == 0
    return place


def edited(**changes: Any) -> Callable[[Path], None]:
    """Put other values into a JSON file, or take those away that are given as `...`."""

    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        kept = {name: value for name, value in (content | changes).items() if value is not ...}
        path.write_text(json.dumps(kept))

    return edit


def edited_task(**changes: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        task = json.loads(path.read_text())["task"] | changes
        edited(task={name: value for name, value in task.items() if value is not ...})(path)

    return edit


def written(content: bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(content), None)[1]


def cut(path: Path) -> None:
    os.truncate(path, 30)


def weighed(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """Change the first tensor of a file."""

    def edit(path: Path) -> None:
        weights = load_file(path)
        name = min(weights)
        weights[name] = change(weights[name]).contiguous()
        save_file(weights, path, metadata={"format": "pt"})

    return edit


def less(path: Path) -> None:
    weights = load_file(path)
    del weights[min(weights)]
    save_file(weights, path, metadata={"format": "pt"})


ANY = {"list": written(b"[]"), "cut": cut, "empty": written(b""), "no text": written(b"\xff\xfe\x00")}
ANY |= {
    "deep": written(b"[" * 100_000),
    "number": written(b"5"),
    "digits": written(b'{"rank": 1' + b"0" * 5_000 + b"}"),
}
EDITS = {
    ADAPTATION: ANY
    | {
        "rank as text": edited(rank="8"),
        "another rank": edited(rank=4),
        "rank below zero": edited(rank=-1),
        "rank above the model's": edited(rank=1_000),
        "unknown method": edited(method="magic"),
        "another method": edited(method="dora"),
        "roles": edited(roles="zz"),
        "roles as a number": edited(roles=5),
        "no attention": edited(attention=...),
        "attention": edited(attention=[]),
        "layers": edited(layers="all"),
        "layers that are not there": edited(layers=[77]),
        "alpha": edited(alpha="a"),
        "head": edited(head=3),
    },
    WEIGHTS: {
        "empty": written(b""),
        "cut": cut,
        "one less": less,
        "not a number": weighed(lambda weight: weight * float("nan")),
        "another shape": weighed(lambda weight: weight[:1]),
    },
    "plan.json": ANY
    | {
        "no task": edited(task=...),
        "task as text": edited(task="reviews"),
        "labels": edited_task(labels=5),
        "no labels": edited_task(labels=...),
        "more of the task": edited_task(weather="fine"),
        "rates": edited(learning_rates=7),
        "files": edited(files=7),
        "no files": edited(files=...),
    },
    "result.json": ANY
    | {
        "no metrics": edited(metrics=...),
        "metrics": edited(metrics="good"),
        "a metric": edited(metrics={"accuracy": "good"}),
        "seconds": edited(seconds="few"),
        "head start": edited(head_start="probe"),
        "checkpoint": edited(checkpoint=4),
    },
}
CASES = [(file, name) for file, edits in EDITS.items() for name in edits]


@pytest.mark.parametrize(("file", "name"), CASES, ids=[f"{file}-{name}" for file, name in CASES])
def test_of_a_run(file: str, name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    EDITS[file][name](run / file)
    commands = [f"evaluate --run {run}"] if "adapter" in file else [f"evaluate --run {run}", f"report {run}"]
    for words in commands:
        capsys.readouterr()
        code = main(words.split())
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (code, len(error)) == (2, 1), (code, error)
        assert error[0].startswith((f"error: {run / file}: ", f"error: {(run / file).parent}: ")), error
        assert "Put it back from a copy, or " in error[0]


MANIFESTS = ANY | {
    "no kind": edited(kind=...),
    "kind": edited(kind=4),
    "unknown kind": edited(kind="zoo"),
    "labels": edited(labels=3),
    "labels of a run": edited(labels={"0123456789abcdef": 5}),
    "given": edited(given=4),
    "details": edited(details=4),
    "format": edited(format="one"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_of_a_sweep(name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    store = Path(shutil.copytree(made / "sweep", tmp_path / "sweep"))
    MANIFESTS[name](store / "store.json")
    capsys.readouterr()
    code = main(f"report {store}".split())
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (code, len(error)) == (2, 1), (code, error)
    assert error[0].startswith(f"error: {store}/store.json: ")
