"""The gap of a run, beside losses that plain transformers computes one example at a time."""

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from scipy.stats import norm
from tiny import make_reviews, save_tiny_bert, write_reviews
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from qvtune.errors import AdaptError, DataError, RunError
from qvtune.lab import gap as gap_module
from qvtune.lab.gap import attention_of_run, measure_bound, measure_gap, stored_bits
from qvtune.report.bound_page import BoundReport
from qvtune.tasks.load import load_data
from qvtune.training.config import make_config
from qvtune.training.folder import RunFolder
from qvtune.training.inference import load_run
from qvtune.training.merging import merge_run
from qvtune.training.run import run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("gap")
    save_tiny_bert(place / "bert")
    write_reviews(place / "reviews.csv", 60)
    with open(place / "numbers.csv", "w", newline="") as file:
        rows = [(text, 2.5 if label == "positive" else 0.25 * i) for i, (text, label) in enumerate(make_reviews(40))]
        csv.writer(file).writerows([("text", "label"), *rows])
    train(place, "lora", data="reviews.csv", rank=4, layers=[1], keep_best=False)
    train(place, "full", data="reviews.csv", method="full", tune_fraction=0.2)
    train(place, "numbers", data="numbers.csv", roles="qkv", rank=2, keep_best=True)
    train(place, "dora", data="reviews.csv", method="dora")
    return place


def train(place: Path, name: str, *, data: str, **options: Any) -> None:
    common = {
        "model": str(place / "bert"),
        "out": str(place / name),
        "batch_size": 8,
        "epochs": 6,
        "lr": 1e-2,
        "head_lr": 3e-2,
        "seed": 3,
    }
    run(make_config(common | {"data": str(place / data), "precision": "fp32"} | options), Console(quiet=True))


def plain_losses(place: Path, name: str, dataset: Any) -> list[float]:
    """Losses of the merged model, one example at a time, without qvtune."""
    merged = place / f"{name}-merged"
    if not merged.exists():
        merge_run(load_run(place / name), merged)
    model = AutoModelForSequenceClassification.from_pretrained(merged).eval()
    tokenizer = AutoTokenizer.from_pretrained(merged)
    losses = []
    for row in dataset:
        batch = tokenizer(row["text"], truncation=True, max_length=128, return_tensors="pt")
        label = torch.tensor([row["label"]])
        with torch.no_grad():
            losses.append(float(model(**batch, labels=label).loss))
    return losses


@pytest.mark.parametrize(
    ("name", "loss"), [("lora", "cross entropy"), ("full", "cross entropy"), ("numbers", "squared error")]
)
def test_losses_are_those_of_plain_transformers(place: Path, name: str, loss: str) -> None:
    trained = load_run(place / name)
    data = load_data(trained.config, trained.config.seed)
    train_losses = plain_losses(place, name, data.train)
    new_losses = plain_losses(place, name, data.evaluation["validation"])
    gap = measure_gap(trained)
    assert gap.loss == loss
    assert gap.train_loss == pytest.approx(np.mean(train_losses), rel=1e-4)
    assert gap.new_loss == pytest.approx(np.mean(new_losses), rel=1e-4)
    assert gap.gap == pytest.approx(np.mean(new_losses) - np.mean(train_losses), rel=1e-4, abs=1e-5)
    assert abs(gap.gap) > 1e-4  # ten times the tolerance
    spread = np.var(train_losses) / len(train_losses) + np.var(new_losses) / len(new_losses)
    assert gap.standard_error == pytest.approx(math.sqrt(spread), rel=1e-3)
    assert gap.highest == pytest.approx(max(train_losses + new_losses), rel=1e-3)
    assert gap.lowest == pytest.approx(min(train_losses + new_losses), rel=1e-3, abs=1e-6)
    assert (gap.train_examples, gap.new_examples, gap.split) == (len(train_losses), len(new_losses), "validation")


def test_the_bound_is_the_runs_own(place: Path) -> None:
    measured = measure_bound(load_run(place / "lora"), sub_gaussian=2.0)
    # 60 reviews, 6 of them held out; query and value of layer 1, 32 x 32, by rank 4.
    numbers = 2 * 4 * (32 + 32)
    assert measured.bound.bound == pytest.approx(math.sqrt(2 * 4 / 54 * 32 * numbers), rel=1e-14)
    # The head is a linear layer from 32 to 2.
    assert measured.other_numbers == 32 * 2 + 2
    assert measured.bound_with_others == pytest.approx(math.sqrt(2 * 4 / 54 * 32 * (numbers + 66)), rel=1e-14)
    assert measured.to_dict()["measured"]["gap"] == measured.gap.gap
    assert not any("checkpoint" in note for note in measured.gap.notes)  # the last one, whatever its metric


@pytest.mark.parametrize(("errors", "is_told"), [(0.0, False), (-1.9, False), (2.0, True), (-30.0, True)])
def test_how_loose_it_is_where_the_gap_is_told_from_0(place: Path, errors: float, is_told: bool) -> None:
    """With a gap of so many of its standard errors."""
    trained = load_run(place / "lora")
    measured = measure_bound(trained)
    error, bound = measured.gap.standard_error, measured.bound.bound
    measured = replace(measured, gap=replace(measured.gap, gap=errors * error))
    low, high = norm.interval(0.95, abs(errors) * error, error)
    assert (low > 0) == is_told
    assert measured.looseness == (pytest.approx(bound / (abs(errors) * error)) if is_told else None)
    assert measured.least_looseness == pytest.approx(bound / high, rel=1e-4)
    text = BoundReport("m", attention_of_run(trained), measured.bound, measured).sentences()[-1]
    if is_told:
        assert text.endswith(f"The bound is about {float(f'{measured.looseness:.2g}'):,g} times its size.")
    else:
        assert "cannot be told from 0, and so how loose the bound is cannot be told either" in text
        assert text.endswith(f"at least {float(f'{bound / high:.2g}'):,g} times the size of the gap.")


def test_full_training_and_examples_held_out_for_tuning(place: Path) -> None:
    measured = measure_bound(load_run(place / "full"))
    assert measured.bound.numbers == 4 * 32 * 32
    assert measured.bound.examples == 54 - round(54 * 0.2)
    assert measured.other_numbers == 4 * 32 + 66
    assert not any("checkpoint" in note for note in measured.gap.notes)  # it was chosen on other examples


def test_a_checkpoint_chosen_on_the_evaluation_set_is_said_to_be(place: Path) -> None:
    notes = measure_gap(load_run(place / "numbers")).notes
    assert notes == ("The checkpoint was chosen on the evaluation set, which can make the gap a little smaller.",)


def test_of_many_examples_a_sample_is_measured(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap_module, "MOST_EXAMPLES", 20)
    trained = load_run(place / "lora")
    gap = measure_gap(trained)
    assert (gap.train_examples, gap.new_examples) == (20, 6)
    assert gap.notes == ("Drew 20 of 54 training examples (seed 3).",)
    assert measure_gap(trained).train_loss == gap.train_loss


def test_bits_are_those_of_the_file(place: Path, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(place / "lora", tmp_path / "run")))
    assert stored_bits(folder, "lora") == 32
    path = folder.adapter / "adapter_model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path)
    assert stored_bits(folder, "lora") == 16


def test_a_method_that_the_theorem_is_not_for(place: Path) -> None:
    with pytest.raises(AdaptError, match="method is 'dora'"):
        measure_bound(load_run(place / "dora"))


def test_data_that_changed(place: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(place / "lora", tmp_path / "run"))
    other = write_reviews(tmp_path / "reviews.csv", 60, seed=5)
    config = (folder / "config.yaml").read_text().replace(str(place / "reviews.csv"), str(other))
    (folder / "config.yaml").write_text(config)
    with pytest.raises(DataError, match="has changed since the run was trained"):
        measure_gap(load_run(folder))


def test_a_damaged_plan(place: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(place / "lora", tmp_path / "run"))
    trained = load_run(folder)
    (folder / "plan.json").write_text("{")
    with pytest.raises(RunError, match=r"plan\.json: is damaged, or was edited: invalid JSON"):
        measure_bound(trained)
    plan = json.loads((place / "lora" / "plan.json").read_text())
    plan["attention"]["layers"][0]["heads"] = "many"
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(RunError, match=r"plan\.json: is damaged, or was edited: layers.0.heads: input should be a"):
        measure_bound(trained)
