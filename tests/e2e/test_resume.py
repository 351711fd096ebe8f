"""A run that is killed at any moment and started again ends like the one that was not."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import Forked
from safetensors.torch import load_file
from tiny import save_tiny_bert, write_reviews

from qvtune.cli.main import main


def command(folder: Path, out: Path) -> list[str]:
    options = {
        "--model": folder / "bert",
        "--data": folder / "reviews.csv",
        "--epochs": 3,
        "--batch-size": 4,
        "--accumulation": 2,
        "--eval-steps": 6,
        "--logging-steps": 4,
        "--lr": 5e-3,
        "--warmup": 0.1,
        "--early-stopping": 20,
        "--out": out,
    }
    return ["train", *[str(word) for pair in options.items() for word in pair]]


def finish(folder: Path, out: Path) -> None:
    # In this process, which saves the time to import everything again.
    assert main(command(folder, out)) == 0


def records(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_end(out: Path, straight: Path) -> None:
    result, expected = (json.loads((path / "result.json").read_text()) for path in (out, straight))
    for key in ("metrics", "train_loss", "checkpoint", "steps", "trainable_parameters", "fingerprint"):
        assert result[key] == expected[key], key
    trained, wanted = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (out, straight))
    assert trained.keys() == wanted.keys()
    assert all(trained[name].equal(wanted[name]) for name in wanted)
    assert records(out) == records(straight)
    assert {path.name for path in out.rglob(".*")} == {".lock"}  # nothing half written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    # Wide enough that writing a checkpoint takes a while.
    save_tiny_bert(folder / "bert", layers=4, width=256)
    write_reviews(folder / "reviews.csv", 89)
    return folder


@pytest.fixture(scope="module")
def straight(folder: Path) -> Path:
    finish(folder, folder / "straight")
    return folder / "straight"


def has_lines(count: int) -> Callable[[Path], bool]:
    def moment(out: Path) -> bool:
        metrics = out / "metrics.jsonl"
        return metrics.exists() and metrics.read_text().count("\n") >= count

    return moment


def writing(step: int) -> Callable[[Path], bool]:
    def moment(out: Path) -> bool:
        return (out / "checkpoints" / f".writing-checkpoint-{step}").exists()

    return moment


# Three epochs of 80 examples, 8 a step: 30 steps, checkpoints every 6 and evaluations beside them.
MOMENTS = {
    "before the first checkpoint": has_lines(1),
    "while the first checkpoint is written": writing(6),
    "while a later checkpoint is written": writing(18),
    "between two checkpoints, in the middle of an epoch": has_lines(10),
    "while the adapter is saved": lambda out: bool(list(out.glob(".writing-adapter-*")) or (out / "adapter").exists()),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_killed_run_ends_like_the_straight_one(
    moment: Callable[[Path], bool], folder: Path, straight: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = Forked(command(folder, out))
    while not moment(out):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.0002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "result.json").exists(), "the run had ended before it was killed"
    finish(folder, out)
    assert_same_end(out, straight)


def test_killed_twice(folder: Path, straight: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    out = tmp_path / "run"
    for lines in (5, 9):
        process = Forked(command(folder, out))
        while not has_lines(lines)(out):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.0002)
        process.kill()
        process.communicate()
    finish(folder, out)
    assert "Going on from" in capfd.readouterr().err
    assert_same_end(out, straight)


def test_interrupt_saves_and_goes_on_to_the_same_adapter(
    folder: Path, straight: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    process = Forked(command(folder, out))
    while not has_lines(3)(out):
        assert process.poll() is None
        time.sleep(0.0002)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "the state is saved" in output
    assert "Traceback" not in output
    step = max(int(path.name.rpartition("-")[2]) for path in (out / "checkpoints").glob("checkpoint-*"))
    for name in ("plan.json", "result.json"):  # as of a writer that was killed
        (out / f".{name}.k1ll3d_w").write_text("{")
    assert main(["train", "--resume", str(out)]) == 0
    assert f"Going on from {out}/checkpoints/checkpoint-{step}" in capfd.readouterr().err
    trained, wanted = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (out, straight))
    assert all(trained[name].equal(wanted[name]) for name in wanted)
    evaluations = [[r for r in records(path) if "eval_loss" in r] for path in (out, straight)]
    assert evaluations[0] == evaluations[1]
    assert {path.name for path in out.rglob(".*")} == {".lock"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_ends_like_one_after_it(folder: Path, tmp_path: Path, number: int) -> None:
    words = [sys.executable, "-m", "qvtune", *command(folder, tmp_path / "run")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout.readline()  # it has read the data, and loads the model
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output


def test_finished_run_is_found_and_not_trained_again(
    folder: Path, straight: Path, capfd: pytest.CaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*.safetensors")}
    finish(folder, straight)
    assert "holds this run already, finished" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in straight.rglob("*.safetensors")} == before


def test_another_seed_ends_elsewhere(folder: Path, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main([*command(folder, out), "--seed", "1"]) == 0
    trained, other = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (out, straight))
    assert not all(trained[name].equal(other[name]) for name in other)


def test_killed_run_of_token_batches_ends_like_the_straight_one(folder: Path, tmp_path: Path) -> None:
    def words(name: str) -> list[str]:
        given = command(folder, tmp_path / name)
        place = given.index("--batch-size")
        return [*given[:place], "--batch-tokens", "60", *given[place + 2 :]]

    process = Forked(words("killed"))
    while not has_lines(9)(tmp_path / "killed"):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.0002)
    process.kill()
    process.communicate()
    assert (tmp_path / "killed" / "checkpoints").exists()
    for name in ("killed", "straight"):
        assert main(words(name)) == 0
    assert_same_end(tmp_path / "killed", tmp_path / "straight")
