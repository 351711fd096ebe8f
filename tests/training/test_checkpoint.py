"""Checkpoints that are damaged in every way are named, and the run goes on from the one before, or is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny import save_tiny_bert, write_reviews

from qvtune.cli.main import main
from qvtune.errors import RunError
from qvtune.files import file_digest
from qvtune.training.checkpoint import Checkpoints
from qvtune.training.config import make_config
from qvtune.training.run import run

# Every file of a checkpoint whose best weights are those of an earlier step.
FILES = (
    "state.json",
    "trained.safetensors",
    "best.safetensors",
    "optimizer.safetensors",
    "random-0.safetensors",
    "manifest.json",
)
Damage = Callable[[Path], None]


def options(folder: Path, out: Path) -> dict[str, object]:
    places = {"model": str(folder / "bert"), "data": str(folder / "reviews.csv"), "out": str(out)}
    return places | {"epochs": 2, "batch_size": 8, "eval_steps": 4, "lr": 3e-3, "keep_best": True, "logging_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tiny_bert(folder / "bert")
    write_reviews(folder / "reviews.csv", 100)
    return folder


@pytest.fixture(scope="module")
def straight(folder: Path) -> Path:
    run(make_config(options(folder, folder / "straight")), Console(quiet=True))
    return folder / "straight"


@pytest.fixture
def killed(straight: Path, tmp_path: Path) -> Path:
    """The run as it was killed after its last checkpoint but one, whose newest has its best weights from before."""
    shutil.copytree(straight, tmp_path / "killed")
    for name in ("result.json", "mistakes.jsonl"):
        (tmp_path / "killed" / name).unlink()
    shutil.rmtree(tmp_path / "killed" / "adapter")
    # What was best is of no matter to the files: this one states an earlier step, and has its weights.
    newest = Checkpoints(tmp_path / "killed" / "checkpoints").all()[0]
    if not (newest.path / "best.safetensors").exists():
        save_file(newest.tensors("trained"), newest.path / "best.safetensors")
        reseal(newest.path)
    return tmp_path / "killed"


def reseal(checkpoint: Path) -> None:
    """Write the manifest that fits the files."""
    names = sorted(path.name for path in checkpoint.iterdir() if path.name != "manifest.json")
    files = {n: {"bytes": (checkpoint / n).stat().st_size, "sha256": file_digest(checkpoint / n)} for n in names}
    (checkpoint / "manifest.json").write_text(json.dumps({"version": 1, "files": files}))


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(64)))


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


WAYS = (missing, empty, truncated, garbage, one_bit, longer)
IN_FILES = {
    f"{name} {way.__name__}": (name, way) for name in FILES for way in WAYS if (name, way) != ("manifest.json", one_bit)
}


@pytest.mark.parametrize(("name", "way"), IN_FILES.values(), ids=IN_FILES.keys())
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(name: str, way: Damage, killed: Path) -> None:
    checkpoints = Checkpoints(killed / "checkpoints")
    newest, before = checkpoints.all()
    assert checkpoints.newest() == (newest, [])
    way(newest.path / name)
    found, damaged = checkpoints.newest()
    assert found == before
    (sentence,) = damaged
    assert sentence.startswith(f"{newest.path.name} is damaged: ")
    assert name in sentence


def change_manifest(**changes: object) -> Damage:
    def change(checkpoint: Path) -> None:
        file = checkpoint / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def without(name: str) -> Damage:
    """Return what takes a file away, and its entry in the manifest with it."""

    def take(checkpoint: Path) -> None:
        (checkpoint / name).unlink()
        reseal(checkpoint)

    return take


def other_step(checkpoint: Path) -> None:
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(state | {"step": 3}))
    reseal(checkpoint)


def other_weights(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "trained.safetensors")
    save_file({name: torch.zeros_like(value) for name, value in tensors.items()}, checkpoint / "trained.safetensors")


def files_of_the_one_before(checkpoint: Path) -> None:
    before = Checkpoints(checkpoint.parent).all()[1].path
    shutil.copy(before / "optimizer.safetensors", checkpoint / "optimizer.safetensors")


IN_FOLDERS: dict[str, Damage] = {
    "a later version": change_manifest(version=2),
    "no list of files": change_manifest(files=[]),
    "an empty list of files": change_manifest(files={}),
    "a file outside": change_manifest(
        files={"state.json": {"bytes": 1, "sha256": ""}, "../x": {"bytes": 1, "sha256": ""}}
    ),
    "no digest": change_manifest(files={"state.json": {"bytes": 1}}),
    "the state of another step": other_step,
    "no word of the optimizer": without("optimizer.safetensors"),
    "no word of the random state": without("random-0.safetensors"),
    "weights of another training": other_weights,
    "the optimizer of the checkpoint before": files_of_the_one_before,
    "no file at all": lambda checkpoint: [path.unlink() for path in checkpoint.iterdir()] and None,
}


@pytest.mark.parametrize("damage", IN_FOLDERS.values(), ids=IN_FOLDERS.keys())
def test_a_damaged_folder_is_named_and_the_checkpoint_before_is_taken(damage: Damage, killed: Path) -> None:
    checkpoints = Checkpoints(killed / "checkpoints")
    newest, before = checkpoints.all()
    damage(newest.path)
    found, (sentence,) = checkpoints.newest()
    assert found == before
    assert str(newest.path) in sentence or newest.path.name in sentence


def test_other_folders_are_no_checkpoints(killed: Path) -> None:
    checkpoints = Checkpoints(killed / "checkpoints")
    own = checkpoints.all()
    for name in ("checkpoint-abc", "checkpoint-", "checkpoint-12-copy", "mine"):
        (killed / "checkpoints" / name).mkdir()
    (killed / "checkpoints" / "checkpoint-99").write_text("a file")
    assert checkpoints.all() == own
    assert checkpoints.newest() == (own[0], [])


@pytest.mark.parametrize(("name", "way"), [("optimizer.safetensors", garbage), ("random-0.safetensors", missing)])
def test_the_run_goes_on_from_the_one_before_to_the_same_numbers(
    name: str, way: Damage, killed: Path, straight: Path, capfd: pytest.CaptureFixture
) -> None:
    newest, before = Checkpoints(killed / "checkpoints").all()
    way(newest.path / name)
    assert main(["train", "--resume", str(killed)]) == 0
    said = capfd.readouterr().err
    assert f"{newest.path.name} is damaged: {newest.path}/{name}" in said
    assert f"Going on from {before.path}." in said
    found, wanted = (json.loads((path / "result.json").read_text()) for path in (killed, straight))
    assert {k: found[k] for k in ("metrics", "train_loss", "checkpoint")} == {
        k: wanted[k] for k in ("metrics", "train_loss", "checkpoint")
    }
    ours, theirs = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (killed, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_where_none_is_whole_the_run_is_refused(killed: Path, capfd: pytest.CaptureFixture) -> None:
    checkpoints = Checkpoints(killed / "checkpoints")
    for checkpoint in checkpoints.all():
        truncated(checkpoint.path / "optimizer.safetensors")
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="no checkpoint is whole"):
        checkpoints.newest()
    assert main(["train", "--resume", str(killed)]) == 2
    error = capfd.readouterr().err
    assert "no checkpoint is whole" in error
    assert all(f"{checkpoint.path.name} is damaged" in error for checkpoint in checkpoints.all())
    assert "Traceback" not in error
    assert all(path.read_bytes() == before[path] for path in before if "checkpoints" in path.parts)


def test_a_checkpoint_of_other_rates_is_refused(killed: Path, capfd: pytest.CaptureFixture) -> None:
    newest = Checkpoints(killed / "checkpoints").all()[0]
    state = json.loads((newest.path / "state.json").read_text())
    state["optimizer"]["groups"][0][1] *= 2
    (newest.path / "state.json").write_text(json.dumps(state))
    reseal(newest.path)
    assert main(["train", "--resume", str(killed)]) == 2
    assert "was trained with the parameter groups" in capfd.readouterr().err
