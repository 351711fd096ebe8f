"""Runs on a tiny model: the folder, the choices of a run, and what they lead to."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from tiny import GOOD, make_reviews, save_tiny_bert, save_tiny_gpt2, write_reviews

from qvtune.errors import ConfigError, Interrupted, RunError
from qvtune.interrupts import Stop, stopping_on_signals
from qvtune.training.callbacks import Callback, Progress
from qvtune.training.checkpoint import Checkpoints
from qvtune.training.config import make_config
from qvtune.training.inference import evaluate_run, load_run, predict_file
from qvtune.training.prepare import prepare
from qvtune.training.run import run
from qvtune.training.selection import Selection
from qvtune.training.timetable import Timetable

QUIET = Console(quiet=True)
# A head that has yet to learn what a probe knows at once, and the best checkpoint of few examples.
RANDOM = {"head_start": "random", "keep_best": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    save_tiny_bert(place / "bert")
    write_reviews(place / "reviews.csv", 60)
    return place


def train(place: Path, out: Path, **options: object) -> dict:
    settings = {
        "model": str(place / "bert"),
        "data": str(place / "reviews.csv"),
        "batch_size": 8,
        "epochs": 2,
        "lr": 3e-3,
        "logging_steps": 1,
        "precision": "fp32",  # so that the tests see the same numbers with and without a processor for bf16
        "out": str(out),
    }
    return run(make_config(settings | options), QUIET)


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [record["loss"] for record in records(out) if "loss" in record]


def weights(out: Path, name: str = "adapter/adapter_model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(out / name)


def test_run_folder(place: Path, tmp_path: Path) -> None:
    result = train(place, tmp_path / "run", seed=4)
    names = {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}
    assert names == {
        "config.yaml", "plan.json", "metrics.jsonl", "result.json", "environment.json", "adapter", "checkpoints",
        "mistakes.jsonl",
    }  # fmt: skip
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())
    needed = {"metrics", "train_samples_per_second", "peak_memory_bytes", "trainable_parameters", "seconds", "hardware"}
    assert needed <= result.keys()
    assert result["trainable_parameters"] == {"query": 1024, "value": 1024, "head": 66, "total": 2114}
    assert result["evaluation_examples"] == {"validation": 6}
    assert 0 < result["train_samples_per_second"] < 1e6
    assert result["peak_memory_bytes"] > 2**20
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    of_build = torch.__version__.partition("+")[0]  # builds for CUDA and for the CPU differ behind the plus sign
    assert environment["versions"]["torch"].partition("+")[0] == of_build
    assert environment["seed"] == 4
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["parameters_trainable"] == 2114
    assert plan["task"]["labels"] == ["negative", "positive"]


def test_resolved_configuration_repeats_the_run(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "a")
    values = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    run(make_config(values | {"out": str(tmp_path / "b")}), QUIET)
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_training_learns_what_can_be_learned(place: Path, tmp_path: Path) -> None:
    result = train(place, tmp_path / "run", epochs=30, lr=1e-2, method="full", roles="qkvo", **RANDOM)
    assert result["metrics"]["accuracy"] == 1.0
    assert losses(tmp_path / "run")[-1] < 0.2 < 0.6 < losses(tmp_path / "run")[0]


def test_how_often_a_run_evaluates_does_not_change_its_training(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "a", keep_best=False)
    train(place, tmp_path / "b", keep_best=False, eval_steps=1)
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_seed_changes_initial_values_order_and_dropout(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "a", seed=0)
    train(place, tmp_path / "b", seed=1)
    assert losses(tmp_path / "a")[0] != losses(tmp_path / "b")[0]


def test_best_checkpoint_is_kept_and_reported(place: Path, tmp_path: Path) -> None:
    # A rate that rises until it harms: the last evaluation is not the best.
    options = {"epochs": 20, "lr": 0.3, "warmup": 0.95, "dropout": 0.0, "eval_steps": 4, "head_start": "random"}
    best = train(place, tmp_path / "best", **options, keep_best=True)
    last = train(place, tmp_path / "last", **options, keep_best=False)
    evaluations = [r for r in records(tmp_path / "best") if "eval_accuracy" in r]
    scores = [r["eval_accuracy"] for r in evaluations]
    assert best["metrics"]["accuracy"] == max(scores) > last["metrics"]["accuracy"] == scores[-1]
    assert best["checkpoint"]["chosen"] == "best"
    ranked = max(evaluations, key=lambda r: (r["eval_accuracy"], -r["eval_loss"]))
    assert best["checkpoint"]["step"] == ranked["step"]
    assert last["checkpoint"] == {"step": last["steps"], "chosen": "last", "chosen_by": None, "chosen_on": None}
    kept = Checkpoints(tmp_path / "best" / "checkpoints").all()[0].tensors("best")
    plain = {
        f"base_model.model.{name.replace('.default', '').replace('.modules_to_save', '')}": kept[name] for name in kept
    }
    saved = weights(tmp_path / "best")
    assert plain.keys() == saved.keys()
    assert all(torch.equal(plain[name], saved[name]) for name in saved)


def test_of_checkpoints_with_equal_metrics_the_lowest_loss_is_kept(place: Path, tmp_path: Path) -> None:
    result = train(place, tmp_path / "run", epochs=8, eval_steps=2, lr=1e-3, dropout=0.0, tune_fraction=0.2, **RANDOM)
    evaluations = [r for r in records(tmp_path / "run") if "eval_loss" in r]
    order = [(r["eval_tuning_accuracy"], -r["eval_tuning_loss"], -r["step"]) for r in evaluations]
    accuracies = [accuracy for accuracy, _, _ in order]
    assert accuracies.count(max(accuracies)) > 1
    assert result["checkpoint"]["step"] == -max(order)[2]
    assert result["checkpoint"]["step"] > -max((accuracy, step) for accuracy, _, step in order)[1]


def test_adapter_has_a_readme_of_its_own(place: Path, tmp_path: Path) -> None:
    result = train(place, tmp_path / "run", rank=3, lr=1e-3)
    card = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert "Roles query, value; rank 3, alpha 8" in card
    assert "learning rates query 0.001, value 0.004, head 0.001" in card
    assert f"| accuracy | {result['metrics']['accuracy']:.4f} |" in card
    assert "id2label={0: 'negative', 1: 'positive'}" in card
    assert str(place) not in card
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").stat().st_mode & 0o077 == 0o044


def test_a_run_does_not_depend_on_the_folder_it_was_started_in(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    result = run(
        make_config({"model": "bert", "data": "reviews.csv", "epochs": 1, "out": str(tmp_path / "run")}), QUIET
    )
    monkeypatch.chdir(tmp_path)
    again = evaluate_run(load_run(tmp_path / "run"))["metrics"]
    assert again == {name: result["metrics"][name] for name in ("accuracy", "f1_macro")}


@pytest.mark.parametrize(("method", "saved"), [("lora", "adapter/adapter_model"), ("full", "model/model")])
def test_a_fused_model_goes_on_from_its_checkpoint(method: str, saved: str, tmp_path: Path) -> None:
    save_tiny_gpt2(tmp_path / "gpt2")
    write_reviews(tmp_path / "reviews.csv", 60)
    options = {"method": method, "lr": 5e-3, "eval_steps": 4, "epochs": 2, "keep_best": False}
    straight = train_gpt2(tmp_path, tmp_path / "straight", **options)
    shutil.copytree(tmp_path / "straight", tmp_path / "killed")
    for name in ("result.json", saved.partition("/")[0], "checkpoints/checkpoint-14"):
        path = tmp_path / "killed" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = train_gpt2(tmp_path, tmp_path / "killed", **options)
    assert again["metrics"] == straight["metrics"]
    first, second = (
        weights(tmp_path / "straight", f"{saved}.safetensors"),
        weights(tmp_path / "killed", f"{saved}.safetensors"),
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any("c_attn" in name for name in first)
    run_again = load_run(tmp_path / "killed")
    assert evaluate_run(run_again)["metrics"]["accuracy"] == straight["metrics"]["accuracy"]


def test_a_checkpoint_of_classes_in_another_order_is_not_gone_on_from(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "adapter")
    (tmp_path / "run" / "result.json").unlink()
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    plan["task"]["labels"].reverse()
    (tmp_path / "run" / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(RunError, match=r"other labels \(positive, negative there, negative, positive here\)"):
        train(place, tmp_path / "run")
    plan["task"]["labels"].reverse()
    (tmp_path / "run" / "plan.json").write_text(json.dumps(plan))
    assert train(place, tmp_path / "run")["status"] == "finished"


def train_gpt2(place: Path, out: Path, **options: object) -> dict:
    settings = {"model": str(place / "gpt2"), "data": str(place / "reviews.csv"), "batch_size": 8, "out": str(out)}
    return run(make_config(settings | options), QUIET)


def test_tuning_split_chooses_and_validation_is_reported(place: Path, tmp_path: Path) -> None:
    result = train(place, tmp_path / "run", tune_fraction=0.2, keep_best=True)
    assert result["checkpoint"]["chosen_on"] == "tuning"
    assert result["checkpoint"]["chosen_by"] == "tuning_accuracy"
    assert result["reported_on"] == ["validation"]
    assert result["evaluation_examples"] == {"validation": 6, "tuning": 11}
    assert result["train_examples"] == 43


def test_early_stopping(place: Path, tmp_path: Path) -> None:
    result = train(place, tmp_path / "run", epochs=40, lr=1e-9, eval_steps=2, early_stopping=3)
    assert result["steps"] == 8  # the first evaluation is the best, and three more bring nothing


@pytest.mark.parametrize(
    ("values", "due"),
    [([], False), ([0.5], False), ([0.5, 0.4], False), ([0.5, 0.4, 0.5], True), ([0.5, 0.4, 0.6, 0.6], False)],
)
def test_early_stopping_counts_logged_evaluations(values: list[float], due: bool) -> None:
    selection = Selection("eval_x", keeps_best=False, choosing=0, patience=2)
    assert selection.is_over([{"loss": 1.0}, *({"eval_x": value} for value in values)]) is due


def test_regression(place: Path, tmp_path: Path) -> None:
    rows = [(text, sum(word in GOOD for word in text.split()) + 0.5) for text, _ in make_reviews(60)]
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps({"text": text, "score": score}) + "\n" for text, score in rows))
    result = train(place, tmp_path / "run", data=str(path), epochs=60, lr=1e-2, method="full", roles="qkvo", **RANDOM)
    assert set(result["metrics"]) == {"pearson", "spearman", "mean_squared_error", "loss"}
    assert result["metrics"]["pearson"] > 0.8
    assert result["metrics"]["loss"] == pytest.approx(result["metrics"]["mean_squared_error"], rel=1e-5)
    predict_file(load_run(tmp_path / "run"), path, tmp_path / "predictions.jsonl")
    predicted = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["text"] for row in predicted] == [text for text, _ in rows]
    assert np.corrcoef([row["score"] for row in predicted], [score for _, score in rows])[0, 1] > 0.8


CHOICES = {
    "full": {"method": "full"},
    "all roles": {"roles": "qkvo", "layers": "1"},
    "bf16": {"precision": "bf16"},
    "cosine": {"schedule": "cosine", "warmup": 0.1},
    "constant": {"schedule": "constant"},
    "checkpointing": {"gradient_checkpointing": True},
    "accumulation": {"accumulation": 3},
    "steps": {"max_steps": 5},
    "decay": {"weight_decay": 0.1, "max_grad_norm": 0.0},
}


@pytest.mark.parametrize("options", CHOICES.values(), ids=CHOICES.keys())
def test_choices_run_and_differ_from_the_default(options: dict, place: Path, tmp_path: Path) -> None:
    result = train(place, tmp_path / "run", **options)
    train(place, tmp_path / "default")
    assert result["status"] == "finished"
    same_arithmetic = "gradient_checkpointing" in options
    assert (losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "default"), rel=1e-6)) == same_arithmetic


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_handful_of_rows(count: int, place: Path, tmp_path: Path) -> None:
    result = train(place, tmp_path / "run", data=str(write_reviews(tmp_path / "few.csv", count)), epochs=1)
    assert result["train_examples"] + result["evaluation_examples"]["validation"] == count
    assert result["evaluation_examples"]["validation"] >= 1


def test_tensorboard_gets_every_rate(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "run", report_to=["tensorboard"])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = tmp_path.rglob("events.out.tfevents*")
    accumulator = EventAccumulator(str(events.parent))
    accumulator.Reload()
    assert {"train/lr/query", "train/lr/value", "train/lr/head", "eval/accuracy"} <= set(accumulator.Tags()["scalars"])


def test_nothing_is_written_before_everything_was_checked(place: Path, tmp_path: Path) -> None:
    settings = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "out": str(tmp_path / "run")}
    prepare(make_config(settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options", [{"max_steps": 2}, {"max_steps": 2, "keep_best": True, "eval_steps": 1}, {"epochs": 1}]
)
def test_a_run_that_is_stopped_at_its_last_step_takes_no_further_one(
    options: dict, place: Path, tmp_path: Path
) -> None:
    class StopAtTheEnd(Callback):
        def on_step_end(self, progress: Progress) -> None:
            if progress.step == progress.steps:
                signal.raise_signal(signal.SIGTERM)

    straight = train(place, tmp_path / "straight", **options)
    settings = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "batch_size": 8, "lr": 3e-3}
    config = make_config(settings | {"logging_steps": 1, "precision": "fp32", "out": str(tmp_path / "run")} | options)
    with pytest.raises(Interrupted), stopping_on_signals(QUIET) as stop:
        run(config, QUIET, callbacks=[StopAtTheEnd()], stop=stop)
    later = run(config, QUIET)
    assert later["steps"] == straight["steps"]
    assert later["metrics"] == straight["metrics"]
    assert all(value.equal(weights(tmp_path / "run")[name]) for name, value in weights(tmp_path / "straight").items())


def test_a_stop_that_is_asked_for_while_a_step_is_logged_comes_after_the_next(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, due = Stop(), Timetable.due

    def asking(self, step: int, **kwargs: bool):
        found = due(self, step, **kwargs)
        stop.requested = step >= 2
        return found

    monkeypatch.setattr(Timetable, "due", asking)
    settings = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "out": str(tmp_path / "run")}
    with pytest.raises(Interrupted, match="stopped at step 3 of"):
        run(make_config(settings | {"batch_size": 8}), QUIET, stop=stop)
    assert [checkpoint.step for checkpoint in Checkpoints(tmp_path / "run" / "checkpoints").all()] == [3]


class Misspelt(Callback):
    def on_evaluation(self, progress: Progress, metrics: dict) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("callbacks", "said"),
    [
        ([Callback], "make an object of a class of qvtune.Callback"),
        (Callback(), "should be a list of qvtune.Callback objects"),
        ([Misspelt()], "Misspelt.on_evaluation: no such event. Did you mean 'on_evaluate'"),
    ],
    ids=["a class", "no list", "a misspelt event"],
)
def test_callbacks_that_would_never_be_called_are_refused(
    callbacks: Any, said: str, place: Path, tmp_path: Path
) -> None:
    settings = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "out": str(tmp_path / "run")}
    with pytest.raises(ConfigError, match=said):
        run(make_config(settings), QUIET, callbacks=callbacks)
    assert not (tmp_path / "run").exists()
