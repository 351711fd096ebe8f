"""What a run refuses at its start, and what is said of one that is damaged, moved or another: one message each."""

import json
import os
import resource
import shutil
from pathlib import Path

import pytest
from forked import Forked
from mistakes import run_cli
from safetensors.torch import load_file, save_file
from tiny import write_reviews

from qvtune.cli.main import main
from qvtune.training.folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """A finished run over positive and negative."""
    out = place / "finished"
    assert main(f"train --model {place}/bert --data {place}/good.csv --epochs 1 --out {out}".split()) == 0
    return out


def test_out_holds_another_run(place: Path, finished: Path, capsys: pytest.CaptureFixture) -> None:
    before = (finished / "result.json").read_bytes()
    code, error = run_cli(
        "train --model @bert --data @good.csv --epochs 1 --lr 3e-4 --rank 4 --out @finished", place, capsys
    )
    assert code == 2
    assert "holds another run, with other rank (8 there, 4 here), lr (0.001 there, 0.0003 here)" in error
    assert (finished / "result.json").read_bytes() == before


@pytest.mark.parametrize("verb", ["evaluate --run @finished", "predict --run @finished --data @good.csv --out @p.csv"])
def test_adapter_does_not_fit_the_model(verb: str, place: Path, finished: Path, capsys: pytest.CaptureFixture) -> None:
    code, error = run_cli(f"{verb} --model @wider", place, capsys)
    assert code == 2
    assert "the adapter does not fit the model: it was made for bert with 2 attention layers of 32 to 32" in error
    assert not (place / "p.csv").exists()


def test_data_that_changed_are_not_taken_for_the_runs_own(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = write_reviews(tmp_path / "mine.csv", 40)
    train = f"train --model @bert --data {data} --epochs 1 --out {tmp_path}/run"
    assert run_cli(train, place, capsys)[0] == 0
    write_reviews(data, 40, seed=1)
    for words in (train, f"evaluate --run {tmp_path}/run"):
        code, error = run_cli(words, place, capsys)
        assert (code, "--data: mine.csv has changed" in error) == (2, True), error
    assert run_cli(f"evaluate --run {tmp_path}/run --data {data}", place, capsys)[0] == 0
    write_reviews(data, 40)
    assert run_cli(train, place, capsys)[0] == 0


def test_evaluation_wants_the_columns_of_the_run_and_says_what_it_trained_on(
    place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "other.csv").write_text("review,label\na good film,positive\n")
    code, error = run_cli(f"evaluate --run @finished --data {tmp_path}/other.csv", place, capsys)
    assert (code, "has no column 'text', which the run was trained on" in error) == (2, True), error
    assert main(f"evaluate --run {finished} --data {place}/good.csv".split()) == 0
    assert "good.csv is a file that the run was trained or tuned on" in capsys.readouterr().out


def test_a_run_in_place_of_a_model(place: Path, finished: Path, capsys: pytest.CaptureFixture) -> None:
    for folder in ("finished", "finished/adapter"):
        code, error = run_cli(f"train --model @{folder} --data @good.csv --out @out", place, capsys)
        assert (code, "qvtune merge --run" in error) == (2, True), error


def test_two_processes_cannot_train_in_one_folder(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = f"train --model @bert --data @good.csv --epochs 1 --out {tmp_path}/run"
    with RunFolder(tmp_path / "run").locked():
        code, error = run_cli(words, place, capsys)
    assert (code, "another process is training here" in error) == (2, True), error
    assert run_cli(words, place, capsys)[0] == 0


DAMAGE = {
    "plan": ("plan.json", "plan.json: is damaged, or was edited"),
    "adapter gone": ("adapter", "adapter: what the run trained is gone"),
    "adaptation": ("adapter/qvtune.json", "qvtune.json: is damaged, or was edited"),
    "weights": ("adapter/adapter_model.safetensors", "the adapter cannot be read"),
}


@pytest.mark.parametrize(("file", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_run(
    file: str, message: str, place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(finished, tmp_path / "damaged")
    path = tmp_path / "damaged" / file
    shutil.rmtree(path) if path.is_dir() else os.truncate(path, 20)
    code, error = run_cli(f"evaluate --run {tmp_path}/damaged --data @good.csv", place, capsys)
    assert (code, message in error) == (2, True), error
    assert "Traceback" not in error


def test_unwritable_cache_does_not_stop_a_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("QVTUNE_CACHE", str(place / "good.csv"))  # a file, in which no folder can be made
    assert run_cli(f"train --model @bert --data @good.csv --epochs 1 --out {tmp_path}/run", place, capsys)[0] == 0


def test_adapter_of_nan(place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(finished, tmp_path / "nan")
    file = tmp_path / "nan" / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "lora_B" in name)
    weights[name][0, 0] = float("nan")
    save_file(weights, file)
    code, error = run_cli(f"evaluate --run {tmp_path}/nan", place, capsys)
    assert code == 2
    assert f"adapter_model.safetensors: '{name}' holds numbers that are not finite" in error


def test_broken_adapter(place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(finished, tmp_path / "broken")
    os.truncate(tmp_path / "broken" / "adapter" / "adapter_model.safetensors", 1000)
    code, error = run_cli(f"evaluate --run {tmp_path}/broken", place, capsys)
    assert code == 2
    assert "the adapter cannot be read" in error


PREDICTIONS = {
    "no text column": ("--data @nan.jsonl --out @p.jsonl", "has no column 'text'"),
    "over another file": ("--data @good.csv --out @unseen.csv", "exists already. Give --out another name, or --overw"),
    "packaged data": ("--data pkg:imdb --out @p.csv", "predictions are made for a file, or for glue/TASK"),
    "over its input": ("--data @good.csv --out @good.csv", "is the file to predict"),
    "format": ("--data @good.csv --out @p.xlsx", "predictions are written as .jsonl or .csv"),
    "another task": ("--data glue/rte --glue-dir @emptyfolder --out @p.tsv", "the run was trained on good"),
    "folder missing": ("--data @nowhere.csv --out @p.csv", "no such file"),
}


@pytest.mark.parametrize(("words", "message"), PREDICTIONS.values(), ids=PREDICTIONS.keys())
def test_mistake_in_predict(
    words: str, message: str, place: Path, finished: Path, capsys: pytest.CaptureFixture
) -> None:
    (place / "nan.jsonl").write_text('{"txt": "a"}\n', encoding="utf-8")
    code, error = run_cli(f"predict --run @finished {words}", place, capsys)
    assert code == 2
    assert message in error


def test_merge_into_a_folder_in_use(place: Path, finished: Path, capsys: pytest.CaptureFixture) -> None:
    code, error = run_cli("merge --run @finished --out @occupied", place, capsys)
    assert (code, "exists already" in error) == (2, True)
    assert [path.name for path in (place / "occupied").iterdir()] == ["thesis.tex"]


@pytest.fixture(scope="module")
def classifier(place: Path, finished: Path) -> Path:
    """A plain classifier over negative and positive, by merging."""
    assert main(f"merge --run {finished} --out {place}/classifier".split()) == 0
    return place / "classifier"


LABELS = {
    "other names": ("text,label\na,up\nb,down\nc,up\nd,down\n", "its head is for 2 labels (negative, positive)"),
    "other number": ("text,label\na,x\nb,y\nc,z\nd,x\n", "and the data has 3 (x, y, z)"),
    "regression": ("text,label\na,0.5\nb,1.5\nc,2.5\n", "and the task is a regression"),
}


@pytest.mark.parametrize(("text", "message"), LABELS.values(), ids=LABELS.keys())
def test_labels_do_not_match_the_model(
    text: str, message: str, place: Path, classifier: Path, capsys: pytest.CaptureFixture
) -> None:
    (place / "labels.csv").write_text(text, encoding="utf-8")
    words = "train --model @classifier --data @labels.csv --epochs 1 --out @relabelled"
    code, error = run_cli(words, place, capsys)
    assert (code, message in error, "--new-head" in error) == (2, True, True)
    assert run_cli(f"{words} --new-head", place, capsys)[0] == 0
    shutil.rmtree(place / "relabelled")


def test_labels_of_the_model_keep_their_ids(
    place: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = json.loads((classifier / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "POSITIVE", "1": "NEGATIVE"}, {"POSITIVE": 0, "NEGATIVE": 1}
    shutil.copytree(classifier, tmp_path / "turned")
    (tmp_path / "turned" / "config.json").write_text(json.dumps(config))
    code, error = run_cli(
        f"train --model {tmp_path}/turned --data @good.csv --epochs 1 --out {tmp_path}/run", place, capsys
    )
    assert code == 0, error
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["task"]["labels"] == ["positive", "negative"]


def test_diverged_run_stops_with_code_3_and_keeps_its_checkpoint(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    words = "train --model @bert --data @good.csv --method full --batch-size 4 --epochs 4 --eval-steps 1"
    # Warmup starts at a rate of zero, so the first step is harmless, and no model survives the second.
    code, error = run_cli(
        f"{words} --logging-steps 1 --max-grad-norm 0 --lr 1e38 --schedule constant --warmup 0.9 --out {out}",
        place,
        capsys,
    )
    assert code == 3, error
    assert "diverged: " in error
    assert "is no longer finite at step 2 of 36" in error
    assert f"The last good checkpoint is {out}/checkpoints/checkpoint-1." in error
    assert (out / "checkpoints" / "checkpoint-1" / "trained.safetensors").exists()
    assert "Traceback" not in error
    assert not (out / "result.json").exists()


def limit_file_size() -> None:
    # Writing past the limit fails as on a full disk, where a test may make none.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_full_disk(place: Path, tmp_path: Path) -> None:
    words = f"train --model {place}/wider --data {place}/good.csv --epochs 1 --rank 64 --out {tmp_path}/run"
    process = Forked(words.split(), limit_file_size)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "cannot be written" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "result.json").exists()
    assert not list((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    assert main(words.split()) == 0
