"""`qvtune train --method X`: it ends, its run loads as it was, and a killed one ends like a straight one."""

import json
from pathlib import Path

import numpy as np
import pytest
from rounding import assert_near
from safetensors.torch import load_file
from scoring import scores_of
from tiny import make_reviews, save_tiny_bert, save_tiny_gpt2, write_reviews

from qvtune.cli.main import main
from qvtune.data.records import text_dataset
from qvtune.data.tokens import tokenize
from qvtune.methods.table import METHODS
from qvtune.training.callbacks import Callback, Progress
from qvtune.training.config import make_config
from qvtune.training.inference import load_run
from qvtune.training.merging import merge_run
from qvtune.training.run import run

# Found by trial: rates at which the tiny models learn in some seconds.
RATES = {"full": 1e-2, "galore": 3e-3, "sift": 3e-2, "ia3": 3e-2, "vera": 3e-2, "bitfit": 3e-2, "head": 1e-1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("methods")
    save_tiny_bert(place / "bert")
    save_tiny_gpt2(place / "gpt2")
    write_reviews(place / "reviews.csv", 80)
    return place


def values(place: Path, out: Path, method: str, model: str = "bert", **changes: object) -> dict[str, object]:
    return {
        "model": str(place / model),
        "data": str(place / "reviews.csv"),
        "method": method,
        "epochs": 4,
        "batch_size": 8,
        "lr": RATES.get(method, 5e-3),
        "seed": 1,
        "precision": "fp32",
        "out": out,
    } | changes


def words(place: Path, out: Path, method: str, model: str = "bert", **changes: object) -> list[str]:
    options = values(place, out, method, model, **changes)
    return ["train", *[str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]]


@pytest.mark.parametrize("model", ["bert", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_by_every_method(
    method: str, model: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = []
    monkeypatch.setattr("qvtune.training.run.save_trained", keeping(live, place))
    out = tmp_path / "run"
    assert main(words(place, out, method, model, logging_steps=9)) == 0
    result, plan = (json.loads((out / name).read_text()) for name in ("result.json", "plan.json"))
    losses = [r["loss"] for r in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in r]
    assert len(set(losses)) == len(losses) == 4
    assert plan["method"] == method
    trained = result["trainable_parameters"]
    assert trained["total"] <= plan["parameters_trainable"]
    assert (trained["total"] < plan["parameters_trainable"]) == METHODS[method].steps
    folder = out / ("adapter" if METHODS[method].saves == "adapter" else "model")
    assert folder.is_dir()
    if METHODS[method].saves == "adapter":
        if model == "bert" and not METHODS[method].steps:  # names and padding come on top
            assert 0 < result["saved_bytes"] - plan["adapter_bytes"] < 5000
        assert f"Method {method}: {METHODS[method].summary}" in (folder / "README.md").read_text()
    loaded = load_run(out)
    found = scores(loaded.model, loaded.tokenizer)
    assert_near(found, live[0])
    merge_run(loaded, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").exists()
    assert main(["evaluate", "--run", str(out), "--data", str(place / "reviews.csv")]) == 0


def keeping(live: list, place: Path):
    """Return `save_trained`, which keeps the scores of the model that it is given."""
    from qvtune.training.saving import save_trained

    def save(model, task, tokenizer, folder, card):
        live.append(scores(model.eval(), tokenizer))
        return save_trained(model, task, tokenizer, folder, card)

    return save


def scores(model, tokenizer) -> np.ndarray:
    texts = text_dataset([[text for text, _ in make_reviews(20, seed=9)]])
    return scores_of(model, tokenizer, tokenize(texts, tokenizer, 128), 8)


@pytest.mark.parametrize("method", ["adalora", "galore", "sift", "eva", "pissa", "bitfit"])
def test_a_killed_run_ends_like_a_straight_one(method: str, place: Path, tmp_path: Path) -> None:
    given = {"eval_steps": 7, "logging_steps": 4, "accumulation": 2, "epochs": 8}
    out, straight = tmp_path / "killed", tmp_path / "straight"

    class Kill(Callback):
        def on_step_end(self, progress: Progress) -> None:
            if progress.step == 17:  # between two checkpoints, and for adalora in the middle of its pruning
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(make_config(values(place, out, method, **given)), callbacks=[Kill()])
    assert [folder.name for folder in (out / "checkpoints").glob("checkpoint-14")] == ["checkpoint-14"]
    for folder in (out, straight):
        assert main(words(place, folder, method, **given)) == 0
    found, wanted = (json.loads((folder / "result.json").read_text()) for folder in (out, straight))
    for key in ("metrics", "train_loss", "checkpoint", "steps", "trainable_parameters", "fingerprint"):
        assert found[key] == wanted[key], key
    files = sorted(file.relative_to(straight) for file in straight.rglob("*.safetensors"))
    assert files == sorted(file.relative_to(out) for file in out.rglob("*.safetensors"))
    for file in files:
        ours, theirs = load_file(out / file), load_file(straight / file)
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not ours[name].equal(theirs[name])] == [], file
    assert lines(out) == lines(straight)


def lines(out: Path) -> list[dict]:
    records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def test_adalora_ends_a_run_at_its_budget(place: Path, tmp_path: Path) -> None:
    assert main([*words(place, tmp_path / "run", "adalora", rank=4), "--no-keep-best"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())["trainable_parameters"]
    assert result["query"] + result["value"] == 4 * 4 * 65


def test_loraplus_logs_the_rates_of_both_factors(place: Path, tmp_path: Path) -> None:
    given = words(place, tmp_path / "run", "loraplus", max_steps=2, logging_steps=1, schedule="constant", lr_ratio=2)
    assert main(given) == 0
    first = lines(tmp_path / "run")[0]
    rates = {name.removeprefix("lr/"): rate for name, rate in first.items() if name.startswith("lr/")}
    wanted = {"query": 5e-3, "query_b": 8e-2, "value": 1e-2, "value_b": 0.16, "head": 5e-3}
    assert rates == pytest.approx(wanted)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["learning_rates"] == pytest.approx(wanted)


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_needs_no_weights(method: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_bytes((place / "bert" / "config.json").read_bytes())
    assert main(["plan", "--model", str(tmp_path / "bert"), "--method", method]) == 0
    assert method in capsys.readouterr().out


def test_the_batches_a_method_looks_at_change_nothing_else(place: Path, tmp_path: Path) -> None:
    first, second = ([r["lr/query"] for r in of(place, tmp_path / name, "eva")] for name in ("a", "b"))
    assert first == second


def of(place: Path, out: Path, method: str) -> list[dict]:
    assert main(words(place, out, method, max_steps=2, logging_steps=1)) == 0
    return [line for line in lines(out) if "loss" in line]
