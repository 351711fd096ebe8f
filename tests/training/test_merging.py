"""The type of a merged model's weights: that of the base model's files, or the one that was asked for."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny import save_tiny_bert, write_reviews
from transformers import AutoModel, AutoModelForSequenceClassification

from qvtune.cli.main import main
from qvtune.errors import ConfigError
from qvtune.training.config import make_config
from qvtune.training.merging import merge_run
from qvtune.training.run import run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on one model, whose files are in bfloat16."""
    place = tmp_path_factory.mktemp("merging")
    save_tiny_bert(place / "bert")
    AutoModel.from_pretrained(place / "bert").to(torch.bfloat16).save_pretrained(place / "bert")
    write_reviews(place / "reviews.csv", 40)
    for method in ("lora", "full"):
        settings = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "out": str(place / method)}
        run(make_config(settings | {"method": method, "max_steps": 4, "lr": 1e-2}), Console(quiet=True))
    return place


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_base_models_type_by_default(method: str, place: Path, tmp_path: Path) -> None:
    merge_run(place / method, tmp_path / "merged")
    merge_run(place / method, tmp_path / "exact", dtype="float32")
    merged, exact = weights(tmp_path / "merged"), weights(tmp_path / "exact")
    assert {value.dtype for value in merged.values()} == {torch.bfloat16}
    assert {value.dtype for value in exact.values()} == {torch.float32}
    for name, value in exact.items():  # rounded once, from the sum in float32
        assert torch.equal(merged[name], value.to(torch.bfloat16)), name
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16


@pytest.mark.parametrize(("given", "dtype"), [("fp16", torch.float16), (torch.float16, torch.float16)])
def test_the_type_that_was_asked_for(given: str | torch.dtype, dtype: torch.dtype, place: Path, tmp_path: Path) -> None:
    merge_run(place / "lora", tmp_path / "merged", dtype=given)
    assert {value.dtype for value in weights(tmp_path / "merged").values()} == {dtype}


def test_a_whole_model_is_merged_after_its_base_has_gone(place: Path, tmp_path: Path) -> None:
    (place / "bert").rename(place / "elsewhere")
    try:
        merge_run(place / "full", tmp_path / "merged")
    finally:
        (place / "elsewhere").rename(place / "bert")
    assert {value.dtype for value in weights(tmp_path / "merged").values()} == {torch.float32}


def test_what_is_too_large_for_a_type_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stored = place / "full" / "model" / "model.safetensors"
    before = stored.read_bytes()
    state = load_file(stored)
    name = next(name for name in state if name.endswith("LayerNorm.weight"))
    state[name][0] = 1e6
    save_file(state, stored, {"format": "pt"})
    try:
        words = ["merge", "--run", str(place / "full"), "--out", str(tmp_path / "merged"), "--dtype", "float16"]
        assert main(words) == 2
    finally:
        stored.write_bytes(before)
    assert f"--dtype float16: '{name}' has a value that is too large for it." in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("dtype", ["int8", "float64", "half"])
def test_other_types_are_refused_before_anything_is_loaded(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--dtype is '{dtype}'; it is one of float32, bfloat16, float16"):
        merge_run(tmp_path / "nowhere", tmp_path / "merged", dtype=dtype)
