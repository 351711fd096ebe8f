"""`qvtune runs` and `qvtune report`: what is found, filtered, sorted, compared and printed."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from qvtune.cli.main import main
from qvtune.errors import ConfigError, RunError
from qvtune.lab.store import Store
from qvtune.report.listing import Filter, compare_rows, find_row, list_runs, parse_filter, sort_rows
from qvtune.training.folder import RunFolder


@pytest.fixture
def everything(sweep: Store, comparison: Store, single: RunFolder) -> Path:
    return sweep.path.parent


def test_runs_of_stores_and_single_ones_are_found_once(everything: Path, sweep: Store, single: RunFolder) -> None:
    rows = list_runs([everything, sweep.path])
    assert len(rows) == 13 + 12 + 1
    assert len({row["path"] for row in rows}) == len(rows)
    row = next(row for row in rows if row["path"] == str(single.path))
    result = json.loads(single.result.read_text())
    assert (row["lr"], row["rank"], row["metric"]) == (3e-3, 8, result["metrics"]["accuracy"])
    assert (row["status"], row["task"], row["f1_macro"]) == ("finished", "reviews", result["metrics"]["f1_macro"])


def test_ratio_is_known_also_where_both_rates_were_given(sweep: Store) -> None:
    by_run = {row["run"]: row for row in list_runs([sweep.path])}
    assert by_run["0000000000000002"]["lr_ratio"] == pytest.approx(10)  # finished: of its configuration
    assert by_run["ffffffffffffffff"]["lr_ratio"] == pytest.approx(30)  # pending: of its labels
    assert by_run["ffffffffffffffff"]["method"] == "lora"


def test_a_run_that_was_stopped_says_at_which_step(
    single: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(single.path, tmp_path / "stopped")
    (tmp_path / "stopped" / "result.json").unlink()
    step = max(int(path.name.rpartition("-")[2]) for path in single.checkpoints.glob("checkpoint-*"))
    (row,) = list_runs([tmp_path])
    assert (row["status"], row["steps"]) == ("pending", step)
    assert main(["runs", str(tmp_path)]) == 0
    assert f"pending, saved at step {step}" in capsys.readouterr().out


def test_a_damaged_run_is_listed_and_foreign_files_are_not(single: RunFolder, tmp_path: Path) -> None:
    for name in ("config", "result"):
        shutil.copytree(single.path, tmp_path / name)
    (tmp_path / "config" / "config.yaml").write_text("# qvtune train --config config.yaml\nlr: [\n")
    (tmp_path / "result" / "result.json").write_text("{")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("optimizer: sgd\n")
    rows = list_runs([tmp_path])
    assert [(Path(row["path"]).name, row["status"]) for row in rows] == [("config", "damaged"), ("result", "damaged")]
    assert "config.yaml" in rows[0]["reason"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("lr=1e-3", 5),
        ("lr=0.001", 5),
        ("lr>=3e-3", 8),
        ("lr > 3e-3", 4),
        ("lr<3e-3", 5),
        ("lr<=3e-3", 9),
        ("status=finished", 9),
        ("status=pending", 1),
        ("metric=", 4),
        ("metric>0", 9),
        ("value-lr=0.01", 6),
        ("seed=1", 6),
        ("method=lora", 13),
        ("fast=True", 13),
    ],
)
def test_filters(sweep: Store, text: str, kept: int) -> None:
    rows = list_runs([sweep.path])
    wanted = parse_filter(text, rows)
    assert sum(wanted.holds(row) for row in rows) == kept


def test_a_filter_on_numbers_leaves_out_text() -> None:
    assert not Filter("a", ">", "1").holds({"a": "x"})
    assert not Filter("a", "=", "1").holds({"a": "01"})
    assert Filter("a", "=", "1").holds({"a": 1.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "write COLUMN=VALUE"),
        ("methd=lora", "Did you mean 'method'"),
        ("lr>fast", "'fast' is no number"),
        ("=3", "write COLUMN=VALUE"),
    ],
)
def test_bad_filters(sweep: Store, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_filter(text, list_runs([sweep.path]))


def test_sorting_puts_rows_without_a_value_last() -> None:
    rows = [{"a": 2}, {}, {"a": 10}, {"a": "x"}, {"a": 1.5}]
    assert sort_rows(rows, "a") == [{"a": 1.5}, {"a": 2}, {"a": 10}, {"a": "x"}, {}]
    assert sort_rows(rows, "a", descending=True) == [{"a": 10}, {"a": 2}, {"a": 1.5}, {"a": "x"}, {}]


def test_comparison_shows_what_differs_alone(sweep: Store) -> None:
    rows = list_runs([sweep.path])
    chosen = [find_row(rows, "0000000000000000"), find_row([], str(sweep.path / "runs" / "0000000000000002"))]
    compared = {row["what"]: list(row.values())[1:] for row in compare_rows(chosen)}
    assert compared["value_lr"] == [1e-3, 1e-2]
    assert compared["lr_ratio"] == [pytest.approx(1), pytest.approx(10)]
    assert {"lr", "seed", "rank", "data", "out", "path", "status"}.isdisjoint(compared)


def test_a_name_that_means_no_run_or_many(sweep: Store) -> None:
    rows = list_runs([sweep.path])
    with pytest.raises(RunError, match="means 12 runs"):
        find_row(rows, "0000")
    with pytest.raises(RunError, match="Did you mean '0000000000000001'"):
        find_row(rows, "0000000000000001x")
    with pytest.raises(RunError, match="holds 13 runs"):
        find_row([], str(sweep.path))


def test_command_prints_tables_csv_and_json(sweep: Store, capsys: pytest.CaptureFixture) -> None:
    def printed(*words: str) -> str:
        assert main(["runs", str(sweep.path), *words]) == 0
        return capsys.readouterr().out

    table = printed("--filter", "status=finished", "--sort", "-seconds", "--columns", "run,seconds,value-lr")
    assert [len(line) for line in table.splitlines()] == [len(table.splitlines()[0])] * 13
    assert "value_lr" in table
    rows = list(csv.DictReader(io.StringIO(printed("--csv", "--sort", "-seconds"))))
    seconds = [float(row["seconds"]) for row in rows if row["seconds"]]
    assert seconds == sorted(seconds, reverse=True)
    assert [row["status"] for row in rows][-1] == "pending"
    loaded = json.loads(printed("--json", "--filter", "status=failed"))
    assert loaded[0]["reason"].startswith("out of memory <script>")
    assert loaded[0]["model"] == sweep.read()["given"]["model"]
    assert "No runs." in printed("--filter", "status=x")
    runs = [str(sweep.path / "runs" / f"{place:016x}") for place in (0, 2)]
    assert "value_lr" in printed("--compare", *runs)
    assert "The runs do not differ." in printed("--compare", runs[0], runs[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "PATH is required"),
        (["nowhere"], "nowhere: does not exist"),
        (["SWEEP", "--sort", "metrc"], "--sort: unknown column 'metrc'. Did you mean 'metric'?"),
        (["SWEEP", "--columns", "lr,sead"], "--columns: unknown column 'sead'. Did you mean 'seed'?"),
        (["SWEEP", "--filter", "lr"], "write COLUMN=VALUE"),
        (["--compare", "SWEEP/runs/0000000000000000"], "--compare needs two runs"),
        (["SWEEP", "--compare", "a", "b", "--sort", "lr"], "Leave out --filter, --sort and --columns"),
        (["SWEEP", "--compare", "0000000000000000", "x"], "x: is no run folder"),
    ],
)
def test_bad_commands_end_with_2(sweep: Store, words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["runs", *(word.replace("SWEEP", str(sweep.path)) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_report_command(sweep: Store, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(sweep.path), "--target", "0.4"]) == 0
    assert f"Wrote {sweep.report}" in capsys.readouterr().out
    assert "steps to 0.4" in sweep.report.read_text(encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run and no sweep" in capsys.readouterr().err
