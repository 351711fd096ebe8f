"""`compare` end to end on a tiny BERT: the table against the run folders, failures, additions, and mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_glue import write_glue
from rich.console import Console
from tiny import save_tiny_bert, write_reviews

from qvtune.cli.main import main
from qvtune.errors import ConfigError, RunError
from qvtune.lab.compare import compare
from qvtune.lab.store import Store

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compare")
    save_tiny_bert(place / "bert")
    write_glue(place / "glue", "rte", "sst2")
    write_reviews(place / "reviews.csv", 60)
    return place


@pytest.fixture(scope="module")
def compared(place: Path) -> Path:
    """Two methods on one task with two seeds, by the command line; the rank is given to all."""
    words = (
        f"compare --methods lora,full:lr=1e-3 --tasks sst2 --seeds 2 --model {place}/bert --glue-dir {place}/glue "
        f"--rank 4 --epochs 1 --batch-size 8 --out {place}/store"
    )
    assert main(words.split()) == 0
    return place / "store"


def results_of(store: Path) -> dict[tuple[str, int], dict]:
    return {
        (outcome.labels["method"], outcome.labels["seed"]): json.loads(outcome.folder.result.read_text())
        for outcome in Store(store).outcomes()
    }


def test_table_holds_what_the_run_folders_say(compared: Path) -> None:
    table = pd.read_csv(compared / "table.csv").set_index("method")
    results = results_of(compared)
    assert list(table.index) == ["lora", "full:lr=1e-3"]
    for method in table.index:
        metrics = [results[method, seed]["metrics"]["accuracy"] for seed in (0, 1)]
        row = table.loc[method]
        assert row["mean"] == pytest.approx(np.mean(metrics))
        assert row["sd"] == pytest.approx(np.std(metrics, ddof=1))
        assert (row["n"], row["runs"], row["failed"], row["task"], row["metric"]) == (2, 2, 0, "sst2", "accuracy")
        counts = results[method, 0]["trainable_parameters"]
        assert row["head_parameters"] == counts["head"] == 32 * 2 + 2
        assert row["adapter_parameters"] == counts["query"] + counts["value"]
        assert row["saved_bytes"] == results[method, 0]["saved_bytes"]
        assert row["peak_memory_bytes"] == max(results[method, seed]["peak_memory_bytes"] for seed in (0, 1))
        assert row["seconds"] == pytest.approx(np.mean([results[method, seed]["seconds"] for seed in (0, 1)]))
    # rank 4: two matrices of 32 x 4 for each of two roles in two layers; full: the matrices and their biases
    assert table.loc["lora", "adapter_parameters"] == 2 * 2 * 2 * 32 * 4
    assert table.loc["full:lr=1e-3", "adapter_parameters"] == 2 * 2 * (32 * 32 + 32)
    assert table.loc["lora", "note"] == "the baseline"


def test_each_run_has_its_method_options_and_seed(compared: Path) -> None:
    configs = {
        (outcome.labels["method"], outcome.labels["seed"]): outcome.folder.read_config()
        for outcome in Store(compared).outcomes()
    }
    assert {seed: configs["lora", seed].seed for seed in (0, 1)} == {0: 0, 1: 1}
    assert (configs["lora", 0].method, configs["lora", 0].rank, configs["lora", 0].lr) == ("lora", 4, 1e-3)
    assert (configs["full:lr=1e-3", 0].method, configs["full:lr=1e-3", 0].lr) == ("full", 1e-3)
    assert Store(compared).read()["given"]["rank"] == 4


def test_same_command_trains_nothing_again_and_prints_the_table(
    place: Path, compared: Path, capsys: pytest.CaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in compared.glob("runs/*/result.json")}
    words = (
        f"compare --methods lora,full:lr=1e-3 --tasks sst2 --seeds 2 --model {place}/bert --glue-dir {place}/glue "
        f"--rank 4 --epochs 1 --batch-size 8 --out {compared}"
    )
    assert main(words.split()) == 0
    shown = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in compared.glob("runs/*/result.json")} == before
    assert len(before) == 4
    assert "full:lr=1e-3 has no rank, so rank 4 is left out." in shown
    for words in ("lora", "full:lr=1e-3", "sst2", "0 of 2", f"{compared}/table.csv"):
        assert words in shown.replace("\n", "")


def test_tables_are_written_in_every_format(compared: Path) -> None:
    assert r"\toprule" in (compared / "table.tex").read_text()
    assert "| method" in (compared / "table.md").read_text()
    assert "<table" in (compared / "table.html").read_text()
    assert "full:lr=1e-3 has no rank" in (compared / "table.html").read_text()


def test_a_run_that_fails_is_counted_and_the_others_go_on(place: Path, tmp_path: Path) -> None:
    summary = compare(
        "lora,full,lora:rank=33",  # as many as the matrix has rows: the model refuses it
        out=tmp_path / "store",
        seeds=1,
        options={"model": str(place / "bert"), "data": str(place / "reviews.csv"), "max_steps": 2},
        console=QUIET,
    ).table.set_index("method")
    assert list(summary["failed"]) == [0, 0, 1]
    assert list(summary["n"]) == [1, 1, 0]
    assert list(summary["task"].unique()) == ["reviews"]
    assert pd.isna(summary.loc["lora:rank=33", "mean"])
    assert summary.loc["full", "note"] == "1 pair: no test"
    failed = [outcome for outcome in Store(tmp_path / "store").outcomes() if outcome.status == "failed"]
    assert [outcome.labels["method"] for outcome in failed] == ["lora:rank=33"]
    assert "factors of rank 32" in failed[0].reason
    assert "1 of 1" in (tmp_path / "store" / "table.md").read_text()


def test_failures_are_printed(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = f"compare --methods lora,lora:rank=33 --data {place}/reviews.csv --seeds 1 --model {place}/bert"
    assert main([*words.split(), "--max-steps", "2", "--out", str(tmp_path / "store")]) == 0
    shown = capsys.readouterr().out
    assert "method=lora:rank=33 task=reviews seed=0: failed, " in shown


def test_seeds_tasks_and_methods_can_be_added(place: Path, tmp_path: Path) -> None:
    options = {"model": str(place / "bert"), "glue_dir": place / "glue", "max_steps": 2, "batch_size": 8}

    def again(methods: str, tasks: str, seeds: object) -> pd.DataFrame:
        return compare(methods, out=tmp_path / "store", tasks=tasks, seeds=seeds, options=options, console=QUIET).table

    first = again("lora", "sst2", 1)
    assert len(first) == 1
    more = again("lora,full", "rte,sst2", "0,5")
    assert set(more["task"]) == {"sst2", "rte", "average"}
    assert set(more["method"]) == {"lora", "full"}
    assert set(more["runs"]) == {2, 4}
    results = list((tmp_path / "store" / "runs").glob("*/result.json"))
    assert len(results) == 8
    average = more[(more["method"] == "full") & (more["task"] == "average")].iloc[0]
    assert average["pairs"] == 4


def test_glue_named_as_data_keeps_its_name_and_a_file_gives_the_shared_options(place: Path, tmp_path: Path) -> None:
    (tmp_path / "shared.yaml").write_text(f"model: {place}/bert\nglue_dir: {place}/glue\nmax_steps: 2\nlr: 1e-3\n")
    words = "compare --methods lora,full --data glue/rte --seeds 1 --baseline full --lr 2e-3"
    out = tmp_path / "store"
    assert main([*words.split(), "--config", str(tmp_path / "shared.yaml"), "--out", str(out)]) == 0
    table = pd.read_csv(out / "table.csv").set_index("method")
    assert list(table["task"]) == ["rte", "rte"]
    assert table.loc["full", "note"] == "the baseline"
    assert {outcome.folder.read_config().lr for outcome in Store(out).outcomes()} == {2e-3}


def test_a_store_of_other_options_is_refused(place: Path, compared: Path) -> None:
    with pytest.raises(RunError, match="holds runs with other epochs"):
        compare(
            "lora",
            out=compared,
            tasks="sst2",
            options={"model": str(place / "bert"), "glue_dir": place / "glue", "epochs": 2, "batch_size": 8, "rank": 4},
            console=QUIET,
        )


BASE = "compare --model @bert --out @out --max-steps 1"
MISTAKES = {
    "unknown method": (f"{BASE} --tasks sst2 --methods lorra", "unknown method 'lorra'. Did you mean 'lora'?"),
    "unknown task": (f"{BASE} --tasks sst --methods lora", "unknown GLUE task 'sst'. Did you mean 'sst2'?"),
    "baseline that is not there": (
        f"{BASE} --tasks sst2 --methods lora --baseline lor",
        "'lor' is none of the methods. Did you mean 'lora'?",
    ),
    "method twice": (f"{BASE} --tasks sst2 --methods lora,full,lora", "'lora' occurs twice"),
    "method twice in other words": (
        f"{BASE} --tasks sst2 --methods lora,lora:rank=8",
        "lora and lora:rank=8 are the same run",
    ),
    "no seeds": (f"{BASE} --tasks sst2 --methods lora --seeds 0", "--seeds is 0, which leaves no run"),
    "neither tasks nor data": (f"{BASE} --methods lora", "--tasks or --data is required"),
    "tasks and data": (f"{BASE} --methods lora --tasks sst2 --data @reviews.csv", "Give one of them"),
    "method as an option": (f"{BASE} --tasks sst2 --methods lora --method full", "Give --methods instead"),
    "seed as an option": (f"{BASE} --tasks sst2 --methods lora --seed 1", "Give --seeds instead"),
    "task as an option": (f"{BASE} --task sst2 --methods lora", "Give --tasks instead"),
    "option that no method takes": (
        f"{BASE} --data @reviews.csv --methods full --rank 4",
        "method=full, task=reviews, seed=0: --rank is ",
    ),
    "bad value of a shared option": (
        f"{BASE} --data @reviews.csv --methods lora,full --lr -1",
        "method=lora, task=reviews, seed=0: --lr is '-1'; it should be greater than 0",
    ),
    "bad value of a method's own option": (
        f"{BASE} --data @reviews.csv --methods lora:rank=0",
        "--rank is '0'; it should be greater than or equal to 1",
    ),
    "data missing": (f"{BASE} --data @nowhere.csv --methods lora", "nowhere.csv: no such file"),
    "methods missing": (f"{BASE} --data @reviews.csv", "--methods is required"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake(words: str, message: str, place: Path, capsys: pytest.CaptureFixture) -> None:
    assert_refused(main, [word.replace("@", f"{place}/") for word in words.split()], message, capsys)
    assert not (place / "out").exists()


def assert_refused(run: Callable, words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    try:
        code = run(words)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error, error
    assert error.startswith("error: ")


def test_python_call_wants_known_methods(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown method"):
        compare(["lora", "dorra"], out=tmp_path, tasks=["rte"], options={"model": "pkg:minilm"})
