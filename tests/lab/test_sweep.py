"""Sweeps of a tiny model: what is trained, what is found, what failed, and what happens when they are stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from forked import Forked
from rich.console import Console
from tiny import write_reviews

from qvtune.cli.main import main
from qvtune.errors import ConfigError, DataError, Interrupted, RunError
from qvtune.lab.estimate import estimate
from qvtune.lab.execution import DEFAULT_EXECUTION, Execution
from qvtune.lab.executors import EXECUTORS
from qvtune.lab.meter import RunsProgress
from qvtune.lab.outcome import end_file
from qvtune.lab.store import Store
from qvtune.lab.sweep import sweep, sweep_cells
from qvtune.options import parse_options
from qvtune.training.config import make_config
from qvtune.training.run import run

QUIET = Console(quiet=True)
AXES = {"lr": [1e-3, 3e-3], "lr_ratio": [1, 4]}


def execution(**values: object) -> Execution:
    return parse_options(Execution, values)


def run_files(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """What must not depend on where a run was trained."""
    return table[["run", "lr", "lr_ratio", "status", "metric", "trained_parameters", "best_step"]]


@pytest.fixture(scope="module")
def done(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("done") / "sweep"
    options = {"model": str(place / "bert"), "data": str(place / "reviews.csv"), "batch_size": 8, "epochs": 2}
    options |= {"head_lr": 1e-2, "precision": "fp32", "logging_steps": 2}
    return out, sweep(options, AXES, out=out, console=QUIET).table


def losses(out: Path) -> dict[str, list[float]]:
    return {
        path.parent.name: [json.loads(line).get("loss") for line in path.read_text().splitlines()]
        for path in out.glob("runs/*/metrics.jsonl")
    }


def test_the_table(done: tuple[Path, pd.DataFrame]) -> None:
    out, table = done
    assert list(table[["lr", "lr_ratio"]].itertuples(index=False, name=None)) == [
        (1e-3, 1.0),
        (1e-3, 4.0),
        (3e-3, 1.0),
        (3e-3, 4.0),
    ]
    assert set(table["status"]) == {"finished"}
    assert (table["trained_parameters"] == table["adapter_parameters"] + table["head_parameters"]).all()
    assert pd.read_csv(out / "results.csv").to_csv() == table.to_csv()


def test_a_run_of_a_sweep_is_a_run(done: tuple[Path, pd.DataFrame], options: dict, tmp_path: Path) -> None:
    out, table = done
    alone = run(make_config(options | {"lr": 3e-3, "lr_ratio": 4, "out": tmp_path / "run"}), QUIET)
    row = table[(table["lr"] == 3e-3) & (table["lr_ratio"] == 4)].iloc[0]
    assert alone["fingerprint"] == row["run"]
    assert alone["metrics"][alone["main_metric"]] == row["metric"]
    lines = [json.loads(line).get("loss") for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == losses(out)[row["run"]]


# The next version of qvtune, with one option more, and what was asked of it.
NEXT_VERSION = """
import json, sys
from pydantic import Field, create_model
from qvtune.training import config

config.TrainConfig = create_model("TrainConfig", __base__=config.TrainConfig, novel=(int, Field(3, description="New.")))
config.LATER["novel"] = 3
from qvtune.lab.sweep import sweep

options, grids, out = json.loads(sys.argv[1])
tables = [sweep(options, axes, out=out).table for axes in grids]
print(json.dumps([table.set_index("run")["status"].to_dict() for table in tables]))
"""


def test_a_store_goes_on_after_an_option_was_added(options: dict, tmp_path: Path) -> None:
    options = options | {"max_steps": 2}
    before = sweep(options, {"lr": [1e-3]}, out=tmp_path, console=QUIET).table
    trained = run_files(tmp_path)

    grids = [{"lr": [1e-3, 2e-3]}, {"lr": [1e-3, 2e-3], "novel": [3, 4]}]
    words = [sys.executable, "-c", NEXT_VERSION, json.dumps([options, grids, str(tmp_path)])]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found, more = json.loads(done.stdout)
    # Its runs are known by their names, and a new value adds one.
    assert len(found) == 2
    assert set(before["run"]) < set(found)
    assert set(found.values()) == {"finished"}
    # What the new option changes is another run.
    assert len(more) == 4
    assert found.items() < more.items()
    assert trained.items() < run_files(tmp_path).items()


def test_a_second_call_trains_nothing(done: tuple[Path, pd.DataFrame], options: dict) -> None:
    out, table = done
    before = run_files(out)
    again = sweep(options, AXES, out=out, console=QUIET).table
    assert run_files(out) == before
    pd.testing.assert_frame_equal(again, table)


def test_a_wider_grid_trains_the_new_runs_alone(options: dict, tmp_path: Path) -> None:
    sweep(options, {"lr": [1e-3]}, out=tmp_path, console=QUIET)
    before = run_files(tmp_path)
    table = sweep(options, {"lr": [1e-3, 2e-3], "seed": [0, 1]}, out=tmp_path, console=QUIET).table
    after = run_files(tmp_path)
    assert len(after) == 4
    assert before.items() <= after.items()
    assert set(table["seed"]) == {0, 1}


def test_a_list_of_runs(options: dict, tmp_path: Path) -> None:
    runs = [{"lr": 1e-3, "roles": "v"}, {"lr": 2e-3, "roles": "qk"}]
    table = sweep(options, runs, out=tmp_path, console=QUIET).table
    assert list(table["roles"]) == ["v", "qk"]
    assert set(table["status"]) == {"finished"}


@pytest.mark.parametrize("axes", [{}, [], [{}]])
def test_an_empty_grid(options: dict, tmp_path: Path, axes: object) -> None:
    with pytest.raises(ConfigError, match="the grid is empty"):
        sweep(options, axes, out=tmp_path / "out", console=QUIET)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_for_data_that_cannot_be_read(options: dict, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        sweep(options | {"data": str(tmp_path / "none.csv")}, {"lr": [1e-3]}, out=tmp_path / "out", console=QUIET)
    assert not (tmp_path / "out").exists()


def test_failed_and_diverged_runs_are_results(options: dict, tmp_path: Path) -> None:
    # Layer 7 does not exist; the rate of 1e30 makes the loss infinite.
    axes = [{"lr": 1e-3, "layers": "7"}, {"lr": 1e30, "layers": "0"}, {"lr": 1e-3, "layers": "0"}]
    table = sweep(options, axes, out=tmp_path, console=QUIET).table
    assert list(table["status"]) == ["failed", "diverged", "finished"]
    assert "7" in table["reason"][0]
    assert "no longer finite" in table["reason"][1]
    ends = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*.end.json")}
    assert len(ends) == 2
    sweep(options, axes, out=tmp_path, console=QUIET)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*.end.json")} == ends
    sweep(options, axes, out=tmp_path, execution=execution(retry=True), console=QUIET)
    later = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*.end.json")}
    assert later.keys() == ends.keys()
    assert all(later[name] > ends[name] for name in ends)


def test_checkpoints_of_finished_runs_are_dropped_and_results_kept(done: tuple[Path, pd.DataFrame]) -> None:
    out, table = done
    for name in table["run"]:
        kept = {path.name for path in (out / "runs" / name).iterdir()}
        assert "checkpoints" not in kept
        assert {"adapter", "config.yaml", "metrics.jsonl", "plan.json", "result.json"} <= kept


def test_workers_give_the_same_numbers(done: tuple[Path, pd.DataFrame], options: dict, tmp_path: Path) -> None:
    table = sweep(options, AXES, out=tmp_path, execution=execution(workers=2), console=QUIET).table
    pd.testing.assert_frame_equal(numbers(table), numbers(done[1]))
    assert losses(tmp_path) == losses(done[0])
    peaks = table["peak_memory_bytes"]
    assert peaks.max() < 1.05 * peaks.min()  # each run has a process of its own


@pytest.mark.slow
def test_ray_gives_the_same_numbers(
    done: tuple[Path, pd.DataFrame], options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    # Ray's workers let every other process go first, and this suite keeps the processors busy.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    table = sweep(options, AXES, out=tmp_path, execution=execution(executor="ray", workers=2), console=QUIET).table
    pd.testing.assert_frame_equal(numbers(table), numbers(done[1]))
    assert losses(tmp_path) == losses(done[0])


@pytest.mark.slow
def test_submitit_gives_the_same_numbers(done: tuple[Path, pd.DataFrame], options: dict, tmp_path: Path) -> None:
    """By submitit's own stand-in for a cluster, which starts the jobs as processes here."""
    pytest.importorskip("submitit")
    plan = execution(executor="slurm", slurm=["cluster=local"])
    table = sweep(options, {"lr": [1e-3], "lr_ratio": [1, 4]}, out=tmp_path, execution=plan, console=QUIET).table
    pd.testing.assert_frame_equal(numbers(table), numbers(done[1]).head(2))


def test_a_killed_worker_costs_its_own_run(options: dict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One worker is killed in its run; the other run finishes, and the next call ends the first one."""
    axes, slow = {"lr": [1e-3, 2e-3]}, options | {"epochs": 30}
    killed: list[str] = []
    over = threading.Event()

    def kill_one() -> None:
        while not over.is_set():
            for metrics in tmp_path.glob("runs/*/metrics.jsonl"):
                lock = metrics.parent.parent / f"{metrics.parent.name}.lock"
                owner = holder(lock)
                if owner is not None and metrics.stat().st_size > 0:
                    os.kill(owner, signal.SIGKILL)
                    killed.append(metrics.parent.name)
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill_one)
    thread.start()
    words = [word for name, value in slow.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--axis", "lr=1e-3,2e-3", "--workers", "2"]
    assert main(["sweep", *words, "--out", str(tmp_path)]) == 2  # the sweep has not come to its end
    over.set()
    thread.join()
    assert killed
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: {tmp_path}: 1 run did not end, since the process died: lr=0.00")
    table = pd.read_csv(tmp_path / "results.csv")
    status = dict(zip(table["run"], table["status"], strict=True))
    assert status.pop(killed[0]) == "pending"
    assert list(status.values()) == ["finished"]
    before = run_files(tmp_path)
    again = sweep(slow, axes, out=tmp_path, execution=execution(workers=2), console=QUIET).table
    assert set(again["status"]) == {"finished"}
    assert before.items() <= run_files(tmp_path).items()


def holder(lock: Path) -> int | None:
    """The process that has a lock file open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) != os.getpid() and any(
                os.path.samefile(file, lock) for file in (process / "fd").iterdir() if file.exists()
            ):
                return int(process.name)
        except OSError:
            continue
    return None


def command(options: dict, out: Path, *more: str) -> list[str]:
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["sweep", "--axis", "lr=1e-3,2e-3", *words, "--out", str(out), *more]


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["local", "workers"])
def test_ctrl_c_saves_and_the_next_call_goes_on(options: dict, tmp_path: Path, more: tuple[str, ...]) -> None:
    words = command(options | {"epochs": 20}, tmp_path, *more)
    process = Forked(words)
    while not any(path.stat().st_size for path in tmp_path.glob("runs/*/metrics.jsonl")):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    errors, _ = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Give the same command again to go on" in errors
    assert "Traceback" not in errors
    assert main(words) == 0
    assert len(run_files(tmp_path)) == 2


def test_two_sweeps_of_one_store_train_no_run_twice(options: dict, tmp_path: Path) -> None:
    words = command(options, tmp_path)
    both = [Forked(words) for _ in range(2)]
    ends = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    # A run that had been trained twice would have been found finished or locked by the second.
    table = pd.read_csv(tmp_path / "results.csv")
    assert list(table["status"]) == ["finished"] * 2
    steps = [json.loads(line)["step"] for line in next(tmp_path.glob("runs/*/metrics.jsonl")).read_text().splitlines()]
    assert steps == sorted(steps)


def test_every_executor_is_an_option() -> None:
    assert set(EXECUTORS) == set(get_args(Execution.model_fields["executor"].annotation))


def test_another_store_in_the_way(options: dict, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no sweep"):
        sweep(options, {"lr": [1e-3]}, out=tmp_path, console=QUIET)


def test_halving_gives_hopeless_runs_up(options: dict, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    # A rate at which the model learns comes first, so that runs at rates that do nothing fall behind.
    runs = [{"lr": lr, "head_lr": lr} for lr in (1e-2, 1e-9, 1e-10, 1e-11)]
    learning = {name: value for name, value in options.items() if name != "head_lr"}
    learning |= {"epochs": 8, "head_start": "random", "data": str(write_reviews(tmp_path.parent / "more.csv", 240))}
    table = sweep(learning, runs, out=tmp_path, execution=execution(halving=True), console=QUIET).table
    assert table["status"][0] == "finished"
    stopped = table[table["status"] == "stopped"]
    assert len(stopped) >= 2
    assert stopped["reason"].str.contains("not among the best third").all()
    assert (stopped["steps"] < table["steps"][0]).all()
    assert stopped["metric"].notna().all()
    assert (stopped["seconds"] < table["seconds"][0]).all()  # of training, without what comes before


def test_the_estimate_is_near_the_time_it_takes(options: dict, tmp_path: Path) -> None:
    cells = sweep_cells(Store(tmp_path), options | {"epochs": 60}, {"lr": [1e-3, 2e-3], "rank": [2, 4]})
    found = estimate(cells, DEFAULT_EXECUTION, QUIET)
    assert (found.runs, found.kinds) == (4, 2)  # rates do not change the time, ranks may
    assert found.seconds == pytest.approx(4 * found.run_seconds)
    assert not tmp_path.joinpath("runs").exists()
    started = time.perf_counter()
    run(cells[0].config, QUIET)
    assert 0.2 < found.run_seconds / (time.perf_counter() - started) < 5


def test_progress_says_what_is_done_and_left(options: dict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sweep(options, {"lr": [1e-3, 2e-3]}, out=tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert "2 runs, 0 done, 2 to train" in lines
    first = next(line for line in lines if line.startswith("1/2"))
    assert "lr=0.001: accuracy" in first
    assert "runs/h" in first
    assert "left" in first
    assert any(line.startswith("2/2 lr=0.002") for line in lines)


def test_progress_of_a_run_in_work(options: dict, tmp_path: Path) -> None:
    store = Store(tmp_path)
    cells = sweep_cells(store, options, {"lr": [1e-3, 2e-3]})
    with RunsProgress(QUIET, cells, 0) as progress:
        folder = store.run_folder(cells[0].name)
        folder.path.mkdir(parents=True)
        folder.metrics.write_text('{"step": 3, "epoch": 0.5}\n{"step": 7, "epoch": 1.5}\n')
        os.utime(folder.metrics, (progress.started + 5, progress.started + 5))
        assert "lr=0.001 75%" in progress._in_work()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"executor": "local", "workers": 2}, "--executor local trains one run at a time"),
        ({"slurm": ["a=1"]}, "--executor is not slurm"),
        ({"executor": "clod"}, "it should be"),
        ({"workers": 0}, "greater than or equal to 1"),
    ],
)
def test_executions_that_make_no_sense(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        execution(**values)


def test_slurm_that_is_not_there(options: dict, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match="--executor slurm"):
        sweep(options, {"lr": [1e-3]}, out=tmp_path, execution=execution(executor="slurm"), console=QUIET)


def test_an_interrupted_run_stays_to_be_done(options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt_soon() -> None:
        while not any(path.stat().st_size for path in tmp_path.glob("runs/*/metrics.jsonl")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_soon)
    thread.start()
    with pytest.raises(Interrupted):
        sweep(options | {"epochs": 40}, {"lr": [1e-3]}, out=tmp_path, console=QUIET)
    thread.join()
    (outcome,) = Store(tmp_path).outcomes()
    assert outcome.status == "pending"
    assert not end_file(outcome.folder).exists()
