"""`qvtune sweep` at the command line: what it prints, and what it refuses with exit code 2 and one message."""

from pathlib import Path

import pytest
from tiny import save_tiny_bert, write_reviews

from qvtune.cli.main import main

GRID = "axes:\n  lr: [1e-3, 2e-3]\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny_bert(tmp_path / "bert")
    write_reviews(tmp_path / "reviews.csv", 40)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep(*words: str) -> int:
    return main(["sweep", "--model", "bert", "--max-steps", "4", "--batch-size", "4", "--out", "out", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the grid is empty: give at least one --axis"),
        (["--axis", "lrr=1,2"], "--axis lrr: unknown option. Did you mean 'lr'?"),
        (["--axis", "lr="], "--axis lr: has no values"),
        (["--axis", "lr"], "write OPTION=VALUE,VALUE"),
        (["--axis", "lr=1e-3,1e-3"], "lr=0.001 is asked for twice"),
        (["--axis", "lr=1e-3,fast"], "lr=fast: --lr is 'fast'"),
        (["--axis", "lr=1e-3", "--axis", "lr=2e-3"], "--axis lr is given twice"),
        (["--axis", "lr=1e-3", "--lr", "1e-4"], "--lr 1e-4 is given too"),
        (["--axis", "lr_ratio=1,2", "--axis", "value_lr=1e-3"], "set the same thing"),
        (["--axis", "lr=1e-3", "--workers", "none"], "--workers is 'none'"),
        (["--axis", "lr=1e-3", "--executor", "local", "--workers", "2"], "trains one run at a time"),
        (["--axis", "lr=1e-3", "--slurm", "a"], "--executor is not slurm"),
        (["--axis", "lr=1e-3", "--config", "none.yaml"], "none.yaml: cannot be read"),
        (["--axis", "lr=1e-3", "--config", "runs.yaml"], "has a list of runs, and there are axes too"),
        (["--config", "flat.yaml"], "flat.yaml: axes must hold a list of values"),
        (["--config", "word.yaml"], "word.yaml: runs must be a list"),
        (["--config", "unknown.yaml"], "unknown option 'axis'"),
        (["--axis", "lr=1e-3", "--axes", "lr=1"], "unknown option '--axes'. Did you mean '--axis'?"),
        (["--axis", "model=bert,other"], "--axis model: --model bert is given too"),
        (["--axis", "data=reviews.csv,gone.csv"], "gone.csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture) -> None:
    texts = {
        "runs.yaml": "runs:\n  - lr: 1e-3\n",
        "flat.yaml": "axes:\n  lr: 1e-3\n",
        "word.yaml": "runs: many\n",
        "unknown.yaml": "axis:\n  lr: [1e-3]\n",
    }
    for name, text in texts.items():
        (place / name).write_text(text)
    has_data = any("data=" in word for word in words)
    try:
        code = sweep(*([] if has_data else ["--data", "reviews.csv"]), *words)
    except SystemExit as end:
        code = end.code
    assert code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not (place / "out" / "runs").exists()


def test_no_folder(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["sweep", "--model", "bert", "--data", "reviews.csv", "--axis", "lr=1e-3"]) == 2
    assert "--out is required" in capsys.readouterr().err


def test_a_folder_of_something_else(place: Path, capsys: pytest.CaptureFixture) -> None:
    (place / "out").mkdir()
    (place / "out" / "letter.txt").write_text("mine")
    assert sweep("--data", "reviews.csv", "--axis", "lr=1e-3") == 2
    assert "is not empty and holds no sweep" in capsys.readouterr().err
    assert [path.name for path in (place / "out").iterdir()] == ["letter.txt"]


def test_a_grid_from_a_file(place: Path, capsys: pytest.CaptureFixture) -> None:
    (place / "grid.yaml").write_text(GRID + "data: reviews.csv\nseed: 3\n")
    assert sweep("--config", "grid.yaml", "--axis", "lr_ratio=1,2") == 0
    printed = capsys.readouterr()
    assert "4/4 lr=0.002 lr_ratio=2: accuracy" in printed.err
    assert printed.out.count("finished") == 4
    assert (place / "out" / "results.csv").is_file()
    assert sweep("--config", "grid.yaml", "--axis", "lr_ratio=1,2") == 0
    again = capsys.readouterr()
    assert again.err == ""
    assert again.out.count("finished") == 4


def test_a_dry_run(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert sweep("--data", "reviews.csv", "--axis", "lr=1e-3,2e-3", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "2 runs, 0 done, 2 to train" in printed
    assert "a run, from a few timed steps of each of 1 kind. Nothing was trained." in printed
    assert not (place / "out").exists()
