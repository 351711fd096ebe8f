"""The store: how it grows, what it refuses, and what it says of runs that did not finish."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from qvtune.errors import ConfigError, RunError
from qvtune.lab.cells import check_distinct, make_cell
from qvtune.lab.outcome import end_file, read_outcome, results_table
from qvtune.lab.store import COMPARISON, SWEEP, Store

RUN = {"a" * 16: {"lr": 1e-4}}


def test_a_store_grows(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.add(SWEEP, RUN, {"epochs": 2.0}, {})
    store.add(SWEEP, {"b" * 16: {"lr": 4e-4}}, {"epochs": 2.0}, {})
    assert store.read()["labels"] == {"a" * 16: {"lr": 1e-4}, "b" * 16: {"lr": 4e-4}}
    assert [outcome.status for outcome in store.outcomes()] == ["pending", "pending"]


def test_writers_of_a_new_store_do_not_take_each_other_for_strangers(tmp_path: Path) -> None:
    for round_ in range(20):
        store = Store(tmp_path / str(round_))
        together = Barrier(8)

        def add(name: str, store: Store = store, together: Barrier = together) -> None:
            together.wait()
            store.add(SWEEP, {name * 16: {"lr": 1e-4}}, {}, {})

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, "abcdefgh"))
        assert sorted(store.read()["labels"]) == [name * 16 for name in "abcdefgh"]


def test_an_option_that_was_fixed_becomes_an_axis(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.add(SWEEP, RUN, {"epochs": 2.0}, {})
    store.add(SWEEP, {"b" * 16: {"lr": 1e-4, "epochs": 3.0, "seed": 1}}, {}, {})
    assert store.read()["labels"] == {
        "a" * 16: {"lr": 1e-4, "epochs": 2.0, "seed": 0},
        "b" * 16: {"lr": 1e-4, "epochs": 3.0, "seed": 1},
    }


def test_what_became_an_axis_is_shared_no_longer(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.add(SWEEP, RUN, {"epochs": 2.0, "head_lr": 1e-3}, {})
    store.add(SWEEP, {"b" * 16: {"lr": 1e-4, "epochs": 3.0}}, {"head_lr": 1e-3}, {})
    store.add(SWEEP, {"b" * 16: {"lr": 1e-4}}, {"epochs": 3.0, "head_lr": 1e-3}, {})
    assert store.read()["given"] == {"head_lr": 1e-3}
    assert store.read()["labels"]["b" * 16] == {"lr": 1e-4, "epochs": 3.0}


def test_a_rate_of_the_value_cannot_be_left_open(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.add(SWEEP, {"a" * 16: {"lr": 1e-4, "value_lr": 1e-3}}, {}, {})
    with pytest.raises(RunError, match="its runs differ in value_lr, which these leave open"):
        store.add(SWEEP, {"b" * 16: {"lr": 2e-4}}, {}, {})
    store.add(SWEEP, {"b" * 16: {"lr": 2e-4}}, {"value_lr": 1e-3}, {})
    assert store.read()["labels"]["b" * 16] == {"lr": 2e-4, "value_lr": 1e-3}


def test_other_options_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.add(SWEEP, RUN, {"epochs": 2.0}, {})
    with pytest.raises(RunError, match=r"other epochs \(2\.0 there, 5\.0 here\).*--axis epochs=2\.0,5\.0"):
        store.add(SWEEP, RUN, {"epochs": 5.0}, {})
    with pytest.raises(RunError, match=r"other rank \(8 there, 4 here\)"):  # 8 is the default
        store.add(SWEEP, RUN, {"epochs": 2.0, "rank": 4}, {})
    assert store.read()["given"] == {"epochs": 2.0}


def test_another_kind_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "store").add(SWEEP, RUN, {}, {})
    with pytest.raises(RunError, match="holds a sweep, and this is a comparison"):
        Store(tmp_path / "store").add(COMPARISON, RUN, {}, {})


def test_other_versions_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.add(SWEEP, RUN, {}, {})
    manifest = json.loads(store.manifest.read_text())
    store.manifest.write_text(json.dumps(manifest | {"options": ["lr", "novel"], "qvtune": "8.1"}))
    with pytest.raises(RunError, match=r"written by qvtune 8\.1, which has options that .* lacks: novel\. Use that"):
        store.add(SWEEP, RUN, {}, {})
    assert len(store.outcomes()) == 1  # still read
    store.manifest.write_text(json.dumps(manifest | {"format": 99, "qvtune": "9.0"}))
    with pytest.raises(RunError, match=r"written by qvtune 9\.0 in format 99"):
        store.add(SWEEP, RUN, {}, {})


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_a_damaged_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(RunError, match="is damaged"):
        Store(tmp_path).read()


def test_places_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no sweep"):
        Store(tmp_path / "full").add(SWEEP, RUN, {}, {})
    with pytest.raises(RunError, match="is a file"):
        Store(tmp_path / "full" / "letter.txt").add(SWEEP, RUN, {}, {})
    with pytest.raises(RunError, match="is no folder of a sweep"):
        Store(tmp_path / "full").read()


def test_runs_that_did_not_finish_are_results(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(SWEEP, RUN, {}, {})
    folder = store.run_folder("a" * 16)
    folder.path.mkdir(parents=True)
    end_file(folder).write_text(json.dumps({"status": "diverged", "reason": "the loss is no number", "seconds": 3.5}))
    (outcome,) = store.outcomes()
    assert (outcome.status, outcome.reason, outcome.metric) == ("diverged", "the loss is no number", None)
    (row,) = results_table([outcome]).to_dict("records")
    assert (row["lr"], row["status"], row["seconds"], row["metric"]) == (1e-4, "diverged", 3.5, None)
    end_file(folder).write_text("{")
    with pytest.raises(RunError, match="damaged"):
        read_outcome(folder, {})


def test_the_name_is_of_the_configuration(tmp_path: Path, options: dict) -> None:
    store = Store(tmp_path)
    one = make_cell(store, {"lr": "1e-4"}, options | {"lr": "1e-4"})
    same = make_cell(store, {"lr": 0.0001}, options | {"lr": 0.0001})
    other = make_cell(store, {"lr": 2e-4}, options | {"lr": 2e-4})
    assert one.name == same.name != other.name
    assert one.labels == {"lr": 1e-4}
    assert one.config.out == tmp_path / "runs" / one.name
    with pytest.raises(ConfigError, match=r"lr=0\.0001 is asked for twice"):
        check_distinct([one, same])


def test_files_that_differ_in_their_folders_alone(tmp_path: Path, options: dict) -> None:
    cells = [make_cell(Store(tmp_path), {"data": data}, options | {"data": data}) for data in ("a/x.csv", "b/x.csv")]
    with pytest.raises(ConfigError, match=r"a/x\.csv and b/x\.csv have one name"):
        check_distinct(cells)


def test_a_run_that_cannot_be_is_named(tmp_path: Path, options: dict) -> None:
    with pytest.raises(ConfigError, match=r"^method=full rank=4: |^method=full, rank=4: .*rank"):
        make_cell(Store(tmp_path), {"method": "full", "rank": 4}, options | {"method": "full", "rank": 4})
