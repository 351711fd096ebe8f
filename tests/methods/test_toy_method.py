"""A method that qvtune has never heard of is registered, and everything works with it: a new method is one new file."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from methods_table import adapted, base, logits, stirred
from models import assert_same_state, snapshot
from rounding import assert_near
from safetensors.torch import load_file, save_file
from tiny import save_tiny_bert, write_reviews
from toy_method import FILE, MOST, SCALE, Scale, scales

from qvtune.adaptation import adapt, count_parameters, restore
from qvtune.adapters import load_adapter, loads_in_peft, save_adapter
from qvtune.cli.main import main
from qvtune.errors import AdaptError, ConfigError, ModelError
from qvtune.groups import param_groups
from qvtune.methods.adapted import adaptation_of
from qvtune.methods.table import METHODS, register
from qvtune.training.callbacks import Callback, Progress
from qvtune.training.config import make_config
from qvtune.training.inference import load_run
from qvtune.training.run import run


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register(SCALE)
    yield
    del METHODS[SCALE.name]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny_bert(tmp_path / "bert")
    write_reviews(tmp_path / "reviews.csv", 80)
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = "--model bert --data reviews.csv --batch-size 8 --precision fp32 --seed 1"


def test_it_is_trained_evaluated_and_used(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(f"train {WORDS} --method scale --epochs 4 --logging-steps 9 --out run".split()) == 0
    plan, result = (json.loads((place / "run" / name).read_text()) for name in ("plan.json", "result.json"))
    # A gain for each of 32 rows, in two layers; the head is 32 x 2 and 2.
    assert plan["parameters_by_role"] == {"query": 64, "value": 64}
    assert result["trainable_parameters"]["total"] == plan["parameters_trainable"] == 128 + 66
    assert plan["learning_rates"] == {"query": 3e-2, "value": 6e-2, "head": 3e-2}
    gains = {n: t for n, t in load_file(place / "run" / "adapter" / FILE).items() if n.endswith("/gain")}
    assert len(gains) == 4
    assert all(0 < gain.abs().max() <= MOST for gain in gains.values())
    assert "Method scale: a factor for every row" in (place / "run" / "adapter" / "README.md").read_text()
    capsys.readouterr()
    assert main(["evaluate", "--run", "run", "--data", "reviews.csv"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["predict", "--run", "run", "--data", "reviews.csv", "--out", "out.csv"]) == 0
    with open(place / "out.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 80
    assert main(["merge", "--run", "run", "--out", "merged"]) == 0
    assert (place / "merged" / "model.safetensors").exists()


def test_an_interrupted_run_ends_like_a_straight_one(place: Path) -> None:
    words = f"{WORDS} --method scale --epochs 6 --eval-steps 7 --logging-steps 4"

    class Kill(Callback):
        def on_step_end(self, progress: Progress) -> None:
            if progress.step == 17:
                raise RuntimeError("killed")

    options = {"model": "bert", "data": "reviews.csv", "batch_size": 8, "precision": "fp32", "seed": 1}
    options |= {"method": "scale", "epochs": 6, "eval_steps": 7, "logging_steps": 4}
    with pytest.raises(RuntimeError, match="killed"):
        run(make_config(options | {"out": "killed"}), callbacks=[Kill()])
    kept = load_file(place / "killed" / "checkpoints" / "checkpoint-14" / "trained.safetensors")
    assert {int(tensor) for name, tensor in kept.items() if name.startswith("steps/")} == {14}
    for out in ("killed", "straight"):
        assert main(f"train {words} --out {out}".split()) == 0
    found, wanted = (json.loads((place / out / "result.json").read_text()) for out in ("killed", "straight"))
    assert (found["metrics"], found["train_loss"]) == (wanted["metrics"], wanted["train_loss"])
    ours, theirs = (load_file(place / out / "adapter" / FILE) for out in ("killed", "straight"))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_sweep_over_methods_has_it(place: Path) -> None:
    words = f"sweep {WORDS} --axis method=lora,scale --max-steps 4 --executor local --out store"
    assert main(words.split()) == 0
    runs = [json.loads(path.read_text())["method"] for path in (place / "store").rglob("plan.json")]
    assert sorted(runs) == ["lora", "scale"]
    scale = next(path.parent for path in (place / "store").rglob(FILE)).parent
    assert load_run(scale).config.method == "scale"


def test_its_hooks_are_called_where_they_act(place: Path) -> None:
    calls: list[tuple[str, int]] = []

    class Watched(Scale):
        def begin(self, model: Any, total_steps: int) -> None:
            calls.append(("begin", total_steps))

        def after_step(self, model: Any, step: int) -> None:
            assert all(scale.gain.grad is not None for scale in scales(model).values())
            calls.append(("after", step))

        def make_optimizer(self, groups: Any, *, betas: Any, eps: float) -> torch.optim.Optimizer:
            calls.append(("optimizer", len(groups)))
            return super().make_optimizer(groups, betas=betas, eps=eps)

    METHODS["scale"] = Watched("scale", "a factor for every row", lr=3e-2, lr_ratio=2.0)
    assert main(f"train {WORDS} --method scale --max-steps 3 --out run".split()) == 0
    # Gains of query and value, and the head's matrix and bias.
    assert calls == [("optimizer", 4), ("begin", 3), ("after", 1), ("after", 2), ("after", 3)]


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_it_is_saved_loaded_and_undone(name: str, tmp_path: Path) -> None:
    model = stirred("scale", name)
    expected = logits(model, name)
    assert (expected - logits(base(name), name)).abs().max() > 1e-3
    groups = {group["name"] for group in param_groups(model, lr=1e-3, lr_ratio=2.0)}
    assert {group.removesuffix("_no_decay") for group in groups} == {"query", "value", "head"}
    assert count_parameters(model).by_role == {"query": 64, "value": 64}
    save_adapter(model, tmp_path)
    assert not loads_in_peft(model)
    assert torch.equal(logits(load_adapter(base(name), tmp_path).eval(), name), expected)
    plain = base(name)
    before = snapshot(plain)
    assert_same_state(before, restore(adapted("scale", name, model=plain), merge=False))
    assert_near(logits(restore(model).eval(), name), expected)


def test_a_file_that_lacks_a_tensor_is_refused_though_the_method_does_not_look(tmp_path: Path) -> None:
    save_adapter(stirred("scale"), tmp_path)
    weights = load_file(tmp_path / FILE)
    model = base("bert")
    before = snapshot(model)
    assert len(weights) == 4 + 2
    for lost in weights:
        save_file({n: tensor for n, tensor in weights.items() if n != lost}, tmp_path / FILE)
        parameter = lost.replace("/", ".parametrizations.weight.0.")
        with pytest.raises(ModelError, match=f"'{parameter}' is missing"):
            load_adapter(model, tmp_path)
        assert adaptation_of(model) is None
        assert_same_state(before, model)


def test_a_name_is_registered_once() -> None:
    assert register(SCALE) is SCALE
    with pytest.raises(AdaptError, match="there is a method 'scale' already"):
        register(Scale("scale", "something else", lr=1e-3, lr_ratio=1.0))
    with pytest.raises(AdaptError, match="there is a method 'lora' already"):
        register(Scale("lora", "something else", lr=1e-3, lr_ratio=1.0))


def test_options_know_the_methods_of_the_moment(capsys: pytest.CaptureFixture) -> None:
    given = {"model": "m", "data": "d", "out": "o"}
    assert make_config(given | {"method": "scale"}).lr == 3e-2
    *_, others, last, scale = METHODS
    with pytest.raises(ConfigError, match=rf"'{last}' or '{scale}'\. Did you mean 'scale'\?"):
        make_config(given | {"method": "scal"})
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert f"{others},{last},scale}}" in "".join(capsys.readouterr().out.split())
    del METHODS["scale"]
    with pytest.raises(
        ConfigError, match=rf"--method is 'scale'; it should be 'lora', 'full', .*'{others}' or '{last}'"
    ):
        make_config(given | {"method": "scale"})
    with pytest.raises(AdaptError, match="unknown method 'scale'"):
        adapt(base("bert"), method="scale")
    register(SCALE)
