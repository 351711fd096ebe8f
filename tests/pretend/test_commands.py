"""Every command on a device that is not the CPU, and what it gives beside what it gives on the CPU."""

import json
from pathlib import Path

import on_device
import pytest
import torch
from on_device import losses, make_place, measured, read
from safetensors.torch import load_file
from tiny import GOOD, write_reviews
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import qvtune
from qvtune.methods.table import METHODS
from qvtune.training.callbacks import Callback, Progress
from qvtune.training.config import make_config
from qvtune.training.inference import load_run
from qvtune.training.prepare import prepare
from qvtune.training.run import run

DEVICE = "pretend:0"
SHORT = "--max-steps 6"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("device"))


def command(words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if "--device cpu" in words:
            patch.delenv("ACCELERATE_TORCH_DEVICE")  # which accelerate takes for more than what it is told
        on_device.command(words)


def train(place: Path, out: Path, words: str = "", model: str = "bert") -> dict:
    command(f"train --model {place}/{model} --data {place}/reviews.csv {SHORT} --logging-steps 1 --out {out} {words}")
    return read(out, "result.json")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("bert", "--method lora --dropout 0 --precision fp32 --fast"),
        ("bert", "--method lora --dropout 0 --precision bf16 --fast"),
        ("bert", "--method lora --dropout 0 --precision bf16 --no-fast"),
        ("bert", "--method full --precision fp32 --no-fast"),
        ("bert", "--method full --precision bf16 --fast --gradient-checkpointing"),
        ("bert", "--method lora --dropout 0 --precision bf16 --fast --batch-tokens 64"),
        ("llama", "--method lora --dropout 0 --precision fp32 --fast"),
        ("llama", "--method lora --dropout 0 --precision bf16 --fast --accumulation 2"),
        ("llama", "--method full --precision bf16 --fast"),
        ("gpt2", "--method lora --dropout 0 --precision fp32 --no-fast"),
        ("gpt2", "--method lora --dropout 0 --precision bf16 --fast"),
    ],
)
def test_a_run_is_what_it_is_on_the_cpu(place: Path, tmp_path: Path, model: str, words: str) -> None:
    # A probe turns the rounding of features of a tiny model into other heads.
    words += " --head-start random"
    here = train(place, tmp_path / "device", words, model)
    there = train(place, tmp_path / "cpu", f"{words} --device cpu", model)
    assert (here["device"], there["device"]) == (DEVICE, "cpu")
    tolerance = 1e-4 if "fp32" in words else 3e-2
    assert losses(tmp_path / "device") == pytest.approx(losses(tmp_path / "cpu"), abs=tolerance)
    assert here["metrics"]["loss"] == pytest.approx(there["metrics"]["loss"], abs=tolerance)
    assert measured(tmp_path / "device") == measured(tmp_path / "cpu")
    assert any("output/value" in names for names in measured(tmp_path / "device"))


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("lora", "full")])
def test_every_method_trains_and_is_loaded(place: Path, tmp_path: Path, method: str) -> None:
    rank = " --rank 4" if "rank" in METHODS[method].defaults else ""
    assert train(place, tmp_path / "run", f"--method {method} --precision bf16{rank}")["device"] == DEVICE
    command(f"evaluate --run {tmp_path}/run")


def test_evaluate_predict_and_merge(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(place, tmp_path / "run", "--precision bf16")
    found = {}
    for device in ("auto", "cpu"):
        assert str(load_run(tmp_path / "run", device=device).model.device) == {"auto": DEVICE}.get(device, device)
        capsys.readouterr()
        command(f"evaluate --run {tmp_path}/run --json --device {device}")
        found[device] = json.loads(capsys.readouterr().out)["metrics"]
        command(
            f"predict --run {tmp_path}/run --data {place}/reviews.csv --device {device} --out {tmp_path}/{device}.jsonl"
        )
    assert found["auto"] == pytest.approx(found["cpu"], abs=1e-5)
    on_device, on_cpu = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()] for name in found
    )
    assert [row["label"] for row in on_device] == [row["label"] for row in on_cpu]
    for one, other in zip(on_device, on_cpu, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    command(f"merge --run {tmp_path}/run --out {tmp_path}/merged")
    command(f"theory bound --run {tmp_path}/run --out {tmp_path}/bound")


@pytest.mark.parametrize("method", ["lora", "full", "adalora", "galore", "sift"])
def test_a_killed_run_ends_with_the_same_numbers(place: Path, tmp_path: Path, method: str) -> None:
    values = {
        "model": str(place / "bert"), "data": str(place / "reviews.csv"), "max_steps": 6, "batch_size": 8,
        "logging_steps": 1, "eval_steps": 3, "keep_best": False, "method": method, "precision": "bf16",
    } | ({"dropout": 0.0} if "dropout" in METHODS[method].defaults else {})  # fmt: skip

    class Kill(Callback):
        def on_step_end(self, progress: Progress) -> None:
            if progress.step == 5:
                raise RuntimeError("killed")

    straight = run(make_config(values | {"out": tmp_path / "straight"}))
    config = make_config(values | {"out": tmp_path / "killed"})
    with pytest.raises(RuntimeError, match="killed"):
        run(config, callbacks=[Kill()])
    assert run(config)["metrics"] == straight["metrics"]
    assert losses(tmp_path / "killed") == losses(tmp_path / "straight")


def test_rates_are_searched_and_trained_with(place: Path, tmp_path: Path) -> None:
    write_reviews(tmp_path / "many.csv", 360)
    data = f"--model {place}/bert --data {tmp_path}/many.csv --batch-size 4 --dropout 0 --head-lr 1e-3"
    data += " --precision fp32 --epochs 3 --head-start random"
    command(f"train {data} --lr auto --lr-ratio auto --budget 330 --out {tmp_path}/run")
    assert read(tmp_path / "run", "result.json")["device"] == DEVICE
    command(f"suggest {data} --budget 330 --device cpu --out {tmp_path}/cpu")
    found = {"auto": read(tmp_path / "run" / "suggestion", "suggestion.json")}
    found["cpu"] = read(tmp_path / "cpu", "suggestion.json")
    first, second = (part["ranges"][0]["curve"][:10] for part in found.values())
    assert first == pytest.approx(second, abs=1e-3)
    # It is measured after the head has learned for a while, which makes another model of a difference in rounding.
    assert 0.25 < found["auto"]["balance"] / found["cpu"]["balance"] < 4


def test_sweep(place: Path, tmp_path: Path) -> None:
    data = f"--model {place}/bert --data {place}/reviews.csv --max-steps 2 --batch-size 8 --precision bf16"
    command(f"sweep {data} --axis lr=1e-4,1e-3 --out {tmp_path}/sweep")
    results = list((tmp_path / "sweep").rglob("result.json"))
    assert len(results) == 2
    assert {json.loads(file.read_text())["device"] for file in results} == {DEVICE}


def test_the_model_is_there_before_it_is_adapted(place: Path, tmp_path: Path) -> None:
    options = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "out": tmp_path / "run"}
    prepared = prepare(make_config(options))
    assert {str(p.device) for p in prepared.model.parameters()} == {DEVICE}
    assert prepared.plan.verified  # its roles were measured where it is


def test_trainer_in_a_script(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    tokenizer = AutoTokenizer.from_pretrained(place / "bert")
    rows = [{"labels": i % 2, **tokenizer(f"the {GOOD[i % 5]} film")} for i in range(32)]
    found = {}
    for device in ("device", "cpu"):
        if device == "cpu":
            monkeypatch.delenv("ACCELERATE_TORCH_DEVICE")
        model = AutoModelForSequenceClassification.from_pretrained(place / "bert")
        torch.manual_seed(0)
        model.classifier.reset_parameters()
        arguments = qvtune.TrainingArguments(
            output_dir=str(tmp_path / device), max_steps=4, logging_steps=1, report_to="none", bf16=True, dropout=0.0,
            dataloader_pin_memory=False, use_cpu=device == "cpu", disable_tqdm=True,
        )  # fmt: skip
        trainer = qvtune.Trainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        assert trainer.model.device == arguments.device
        trainer.train()
        trainer.save_model()
        found[device] = [record["loss"] for record in trainer.state.log_history if "loss" in record]
        assert load_file(tmp_path / device / "adapter_model.safetensors")
    assert found["device"] == pytest.approx(found["cpu"], abs=3e-2)
