"""Adapters and merged models on a stand-in of the hub: what is sent, with which card, and never unasked."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub import TOKEN, Hub, hub
from huggingface_hub import ModelCard, constants
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load
from tiny import save_tiny_bert, write_reviews
from transformers import AutoModelForSequenceClassification

import qvtune
from qvtune import network
from qvtune.cli.main import main
from qvtune.errors import ConfigError, RunError
from qvtune.training.config import make_config
from qvtune.training.run import run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sharing")
    save_tiny_bert(place / "bert")
    write_reviews(place / "reviews.csv", 40)
    for method in ("lora", "full", "sift"):
        settings = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "out": str(place / method)}
        run(make_config(settings | {"method": method, "max_steps": 2}), Console(quiet=True))
    return place


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        network.hub_is_reachable.cache_clear()
        yield found
    network.hub_is_reachable.cache_clear()


def card_of(found: Hub, name: str) -> ModelCard:
    return ModelCard(found.files[name]["README.md"].decode())


def test_an_adapter_loads_in_plain_peft_from_what_was_sent(place: Path, standin: Hub, tmp_path: Path) -> None:
    address = qvtune.push_to_hub(place / "lora", "me/reviews", base_model="google/bert-tiny", private=True)
    assert address == f"{standin.address}/me/reviews"
    assert standin.repositories["me/reviews"]["visibility"] == "private"
    sent = standin.files["me/reviews"]
    assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == "google/bert-tiny"
    data = card_of(standin, "me/reviews").data
    assert (data.base_model, data.library_name, data.pipeline_tag) == (
        "google/bert-tiny", "peft", "text-classification"
    )  # fmt: skip
    assert set(data.tags) == {"lora", "qvtune"}
    assert not [name for name, content in sent.items() if str(place).encode() in content]
    for name, content in sent.items():
        (tmp_path / name).write_bytes(content)
    base = AutoModelForSequenceClassification.from_pretrained(place / "bert", num_labels=2)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    stored = load(sent["adapter_model.safetensors"])
    state = loaded.state_dict()
    matched = [name for name in stored if name.replace(".weight", ".default.weight") in state]
    assert [name for name in stored if ".lora_" in name and name not in matched] == []
    assert all(torch.equal(state[name.replace(".weight", ".default.weight")], stored[name]) for name in matched)


def test_an_adapter_of_our_own_says_so_on_its_card(place: Path, standin: Hub) -> None:
    qvtune.push_to_hub(place / "sift", "me/sift", base_model="google/bert-tiny")
    card = card_of(standin, "me/sift")
    assert card.data.library_name is None
    assert "qvtune.load_adapter" in card.text


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_merged_model_is_sent_whole(method: str, place: Path, standin: Hub, tmp_path: Path) -> None:
    words = ["merge", "--run", str(place / method), "--out", str(tmp_path / "merged"), "--push-to-hub", "me/merged"]
    assert main(words) == 0
    sent = standin.files["me/merged"]
    assert {path.name for path in (tmp_path / "merged").iterdir()} == set(sent)
    assert sent["model.safetensors"] == (tmp_path / "merged" / "model.safetensors").read_bytes()
    data = card_of(standin, "me/merged").data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert not [name for name, content in sent.items() if str(place).encode() in content]


def test_train_pushes_a_whole_model_when_asked(place: Path, standin: Hub, capsys: pytest.CaptureFixture) -> None:
    stored = yaml_words(place / "full")
    assert main(["train", *stored, "--push-to-hub", "me/full"]) == 0  # which finds the finished run
    assert f"Pushed to {standin.address}/me/full" in capsys.readouterr().out
    assert "model.safetensors" in standin.files["me/full"]


def yaml_words(folder: Path) -> list[str]:
    return ["--config", str(folder / "config.yaml")]


def test_nothing_is_sent_unasked(place: Path, standin: Hub, tmp_path: Path) -> None:
    assert main(["train", *yaml_words(place / "full")]) == 0
    assert main(["merge", "--run", str(place / "lora"), "--out", str(tmp_path / "merged")]) == 0
    assert standin.repositories == standin.files == {}


def test_results_on_the_hubs_data_are_results_for_the_hub() -> None:
    from qvtune.tasks.classification import Classification
    from qvtune.training.card import adapter_card

    task = Classification("rte", ("no", "yes"), "classes", "accuracy", ("text",), "label")
    config = make_config({"model": "google/bert-tiny", "data": "glue/rte", "out": "o"})
    data = ModelCard(adapter_card(config, task, {"query": 1e-3}, {"accuracy": 0.71234}, True)).data
    assert data.datasets == ["nyu-mll/glue"]
    (result,) = data.eval_results
    assert (result.dataset_type, result.dataset_config) == ("nyu-mll/glue", "rte")
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.7123)


@pytest.mark.parametrize("data", ["reviews.csv", "/data/mine.parquet", "pkg:rotten_tomatoes", "~/x"])
def test_names_of_local_data_stay_here(data: str) -> None:
    from qvtune.training.card import hub_dataset

    assert hub_dataset(make_config({"model": "m", "data": data, "out": "o"})) == (None, None)


def test_what_cannot_be_pushed_is_refused_before_anything_is_done(
    place: Path, standin: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = [
        "train",
        "--model",
        str(place / "bert"),
        "--data",
        str(place / "reviews.csv"),
        "--out",
        str(tmp_path / "o"),
    ]
    merge = ["merge", "--run", str(place / "lora"), "--out", str(tmp_path / "m")]
    refused = {
        "a base model of one's own": ([*words, "--push-to-hub", "me/a"], "others do not have. Push the merged model"),
        "a name that is none": ([*merge, "--push-to-hub", "me/a/b"], "which is no name for the hub"),
        "private alone": ([*merge, "--private"], "--private is for --push-to-hub NAME"),
    }
    for what, (line, expected) in refused.items():
        assert main(line) == 2, what
        assert expected in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main([*merge, "--push-to-hub", "me/a"]) == 2
    assert "Run 'hf auth login', or set HF_TOKEN" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    network.hub_is_reachable.cache_clear()
    assert main([*merge, "--push-to-hub", "me/a"]) == 2
    assert "the hub cannot be reached from here" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "m").exists()
    assert standin.repositories == {}


def test_a_refusal_of_the_hub_is_one_message(place: Path, standin: Hub) -> None:
    standin.refusal = 403, "You have no rights to create a model under 'them'."
    with pytest.raises(RunError, match=r"--push-to-hub them/a: the hub refused: .*no rights to create"):
        qvtune.push_to_hub(place / "full", "them/a")


def test_a_folder_with_nothing_to_push(standin: Hub, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds neither a run nor a model"):
        qvtune.push_to_hub(tmp_path, "me/a")
    with pytest.raises(ConfigError, match="no name for the hub"):
        qvtune.push_to_hub(tmp_path, "a//b")
