"""`reproduce` end to end on a tiny BERT and made-up GLUE: numbers beside the published ones, and what differs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_glue import write_glue
from rich.console import Console
from tiny import save_tiny_bert
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from qvtune.cli.main import main
from qvtune.errors import ConfigError, RunError
from qvtune.lab.outcome import Outcome
from qvtune.lab.presets import find_preset
from qvtune.lab.reproduce import make_table, plan_reproduction, reproduce
from qvtune.lab.store import Store
from qvtune.lab.untrained import measure_untrained, read_untrained
from qvtune.training.config import make_config
from qvtune.training.folder import RunFolder
from qvtune.training.prepare import prepare

QUIET = Console(quiet=True)
ROWS = "before,lora qv rank=8 lr_ratio=4,full qv lr_ratio=2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reproduce")
    save_tiny_bert(place / "bert")
    write_glue(place / "glue", "rte", "cola")
    return place


def words_of(place: Path, out: Path) -> list[str]:
    words = f"reproduce table2 --model {place}/bert --glue-dir {place}/glue --tasks rte,cola --seeds 2 --epochs 2"
    return [*words.split(), "--max-train-samples", "30", "--rows", ROWS, "--out", str(out)]


@pytest.fixture(scope="module")
def reproduced(place: Path) -> Path:
    assert main(words_of(place, place / "store")) == 0
    return place / "store"


def test_measured_beside_published(reproduced: Path) -> None:
    table = pd.read_csv(reproduced / "table.csv").set_index(["row", "task"])
    name = "lora qv rank=8 lr_ratio=4"
    results = {
        (outcome.labels["method"], outcome.labels["task"], outcome.labels["seed"]): json.loads(
            outcome.folder.result.read_text()
        )
        for outcome in Store(reproduced).outcomes()
    }
    assert len(results) == 8
    for task, published, metric in (("rte", 75.09, "accuracy"), ("cola", 59.56, "matthews_correlation")):
        measured = [100 * results["lora", task, seed]["metrics"][metric] for seed in (0, 1)]
        row = table.loc[name, task]
        assert row["published"] == published
        assert row["mean"] == pytest.approx(np.mean(measured))
        assert row["sd"] == pytest.approx(np.std(measured, ddof=1))
        assert row["difference"] == pytest.approx(np.mean(measured) - published)
        assert (row["n"], row["runs"], row["failed"], row["metric"]) == (2, 2, 0, metric)
        assert (row["adapter_parameters"], row["head_parameters"]) == (2 * 2 * 2 * 32 * 8, 66)
    assert table.loc[name, "average"]["published"] == pytest.approx((75.09 + 59.56) / 2)
    assert table.loc["before", "rte"]["published"] == 45.12
    assert list(table.index.get_level_values("row").unique()) == ["before", "full qv lr_ratio=2", name]


def test_runs_have_the_papers_options_but_for_those_given(reproduced: Path) -> None:
    configs = {
        (outcome.labels["method"], outcome.labels["task"]): outcome.folder.read_config()
        for outcome in Store(reproduced).outcomes()
    }
    lora, full = configs["lora", "rte"], configs["full", "cola"]
    for config in (lora, full):
        assert (config.epochs, config.max_train_samples, config.lr) == (2, 30, 1e-4)
        assert (config.adam_beta2, config.eval_steps, config.keep_best, config.precision) == (0.99, 500, False, "auto")
    assert (lora.rank, lora.alpha, lora.lr_ratio, lora.roles) == (8, 8, 4, "qv")
    assert (full.method, full.lr_ratio) == ("full", 2)


def test_every_deviation_is_told(reproduced: Path, place: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in reproduced.rglob("*.json") if path.name != "store.json"}
    assert main(words_of(place, reproduced)) == 0
    shown = capsys.readouterr().out
    page = (reproduced / "table.md").read_text().replace("\\", "")
    for line in (
        "- tasks: rte, cola of rte, stsb, mrpc, cola, mnli, sst2, qqp, qnli",
        "- rows: 3 of 21",
        "- seeds: the mean over 0, 1 instead of one run",
        f"- model: {place}/bert instead of roberta-base",
        "- training examples: 30 instead of all",
        "- epochs: 2 instead of 20",
        "- precision: auto instead of fp16",
        "- the fast path: batches of texts of similar length",
        "- the head trains at the rate of query and key",
    ):
        assert line in shown
        assert line in page
    assert shown.count("\n- ") == 9
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_papers_own_options_are_no_deviation() -> None:
    plan = plan_reproduction(
        "table2",
        out=Path("nowhere"),
        family=None,
        tasks=None,
        rows="lora,full",
        seeds=1,
        options={"precision": "fp16", "epochs": 20, "alpha": 8.0, "head_lr": 1e-4, "fast": False},
    )
    assert plan.deviations == (
        "rows: 12 of 21",
        "head_lr: 0.0001 instead of the rate of query and key",
        "epochs: 20 instead of 10",
    )


def test_before_training_is_the_plain_model_with_a_fresh_head(place: Path, tmp_path: Path) -> None:
    write_glue(tmp_path / "glue", "stsb")
    config = make_config(
        {"model": str(place / "bert"), "data": "glue/stsb", "glue_dir": tmp_path / "glue", "seed": 1, "out": "none"}
        | {"head_start": "random"}
    )
    measured = measure_untrained(Store(tmp_path / "store"), config, QUIET)
    head = {name: value for name, value in prepare(config).model.named_parameters() if ".classifier." in name}
    plain = AutoModelForSequenceClassification.from_pretrained(place / "bert", num_labels=1).eval()
    for part in ("weight", "bias"):
        (value,) = (value for name, value in head.items() if name.endswith(part) and value.requires_grad)
        getattr(plain.classifier, part).data.copy_(value)
    tokenizer = AutoTokenizer.from_pretrained(place / "bert")
    lines = (tmp_path / "glue/STS-B/dev.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t")[7:] for line in lines]
    with torch.no_grad():
        scores = [float(plain(**tokenizer(a, b, return_tensors="pt")).logits) for a, b, _ in rows]
    expected = np.corrcoef(scores, [float(score) for _, _, score in rows])[0, 1]
    assert 0.001 < abs(expected) < 0.999
    assert measured["pearson"] == pytest.approx(expected, abs=1e-4)


def test_before_training_is_measured_once(place: Path, reproduced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_reproduction(
        "table2",
        out=reproduced,
        family=None,
        tasks="rte",
        rows="before",
        seeds=1,
        options={"model": str(place / "bert"), "glue_dir": str(place / "glue"), "max_train_samples": 30},
    )
    assert not plan.cells
    monkeypatch.setattr("qvtune.lab.untrained._measure", lambda *_: pytest.fail("measured again"))
    assert "accuracy" in measure_untrained(Store(reproduced), plan.untrained[0].config)
    found = {(record["task"], record["seed"]) for record in read_untrained(Store(reproduced))}
    assert found == {(task, seed) for task in ("rte", "cola") for seed in (0, 1)}


def test_rows_can_be_added_one_after_another(place: Path, tmp_path: Path) -> None:
    def again(rows: str) -> pd.DataFrame:
        options = {"model": str(place / "bert"), "glue_dir": str(place / "glue"), "max_steps": 1, "alpha": 16}
        return reproduce("table2", out=tmp_path / "store", tasks="rte", rows=rows, options=options, console=QUIET).table

    assert list(again("full qv lr_ratio=2")["row"]) == ["full qv lr_ratio=2"]
    assert list(again("before")["row"]) == ["before", "full qv lr_ratio=2"]
    assert len(again("lora qv rank=8 lr_ratio=2")) == 3
    given = Store(tmp_path / "store").read()["given"]
    assert (given["alpha"], given["max_steps"], given["model"]) == (16, 1, str(place / "bert"))


def test_mnli_and_stsb_take_the_published_metric(tmp_path: Path) -> None:
    def outcome(task: str, metrics: dict[str, float]) -> Outcome:
        labels = {"method": "lora", "roles": "qv", "rank": 8, "lr_ratio": 2.0, "task": task, "seed": 0}
        return Outcome(task, labels, RunFolder(tmp_path / task), "finished", None, {"metrics": metrics})

    table = make_table(
        find_preset("table2"),
        [
            outcome("mnli", {"accuracy_matched": 0.86, "accuracy_mismatched": 0.88, "accuracy": 0.87}),
            outcome("stsb", {"pearson": 0.9, "spearman": 0.8}),
            outcome("qqp", {"accuracy": 0.89, "f1": 0.85}),
        ],
    ).set_index("task")
    assert table.loc["mnli", "mean"] == pytest.approx(87)
    assert table.loc["mnli", "difference"] == pytest.approx(87 - 86.85)
    assert table.loc["stsb", "mean"] == pytest.approx(90)
    assert table.loc["qqp", "difference"] == pytest.approx(89 - 89.47)
    assert table.loc["average", "published"] == pytest.approx((86.85 + 90.37 + 89.47) / 3)


def test_a_failed_run_is_a_row_without_a_mean(tmp_path: Path) -> None:
    labels = {"method": "full", "roles": "qv", "rank": None, "lr_ratio": 8.0, "task": "mnli", "seed": 0}
    failed = Outcome("x", labels, RunFolder(tmp_path / "x"), "diverged", "the loss is nan", {"seconds": 3.0})
    row = make_table(find_preset("table2"), [failed]).iloc[0]
    assert (row["row"], row["published"], row["failed"]) == ("full qv lr_ratio=8", 35.44, 1)
    assert pd.isna(row["mean"])
    assert pd.isna(row["difference"])


def test_a_grid_has_the_rates_as_labels() -> None:
    plan = plan_reproduction(
        "figure2", out=Path("nowhere"), family=None, tasks=None, rows="lr=5e-6", seeds="7,", options={"max_steps": 3}
    )
    assert len(plan.cells) == 7
    assert plan.cells[0].labels == {"lr": 5e-6, "value_lr": 1e-6, "task": "mnli", "seed": 7}
    assert {(cell.config.lr, cell.config.value_lr) for cell in plan.cells} == {
        (5e-6, rate) for rate in (1e-6, 5e-6, 1e-5, 5e-5, 1e-4, 2e-4, 4e-4)
    }
    assert plan.cells[0].config.model == "meta-llama/Llama-3.1-8B"
    assert "max_steps: 3 instead of 800" in plan.deviations
    assert "not stated in the paper, so as qvtune has it: precision, dropout" in plan.deviations


def test_cells_of_a_grid_without_published_numbers(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_glue(tmp_path / "glue", "qqp")
    words = (
        f"reproduce figure1 --tasks qqp --model {place}/bert --glue-dir {tmp_path}/glue --max-steps 2 --head-lr 1e-3"
    )
    rows = "lr=1e-4 value_lr=1e-4,lr=1e-4 value_lr=1e-3"
    assert main([*words.split(), "--rows", rows, "--out", str(tmp_path / "store")]) == 0
    shown = capsys.readouterr().out
    assert "The published numbers of these cells of figure1 are not known here." in shown
    assert "- head_lr: 0.001 instead of the rate of query and key" in shown
    assert "the head trains at the rate of query and key" not in shown
    assert "- not stated in the paper, so as qvtune has it: the roles (qv here)" in shown
    table = pd.read_csv(tmp_path / "store" / "table.csv")
    assert list(table["row"]) == ["lr=0.0001 value_lr=0.0001", "lr=0.0001 value_lr=0.001"]
    assert table["published"].isna().all()
    outcomes = Store(tmp_path / "store").outcomes()
    assert [100 * outcome.metric for outcome in outcomes] == pytest.approx(list(table["mean"]))
    for outcome in outcomes:
        config = outcome.folder.read_config()
        assert (config.lr, config.value_lr) == (outcome.labels["lr"], outcome.labels["value_lr"])
        assert (config.head_lr, config.roles, config.rank) == (1e-3, "qv", 8)


def test_a_store_of_another_experiment_is_refused(place: Path, reproduced: Path) -> None:
    with pytest.raises(RunError, match="holds table2 with the options of roberta, and this is figure1"):
        reproduce(
            "figure1",
            out=reproduced,
            tasks="qqp",
            rows="lr=1e-4 value_lr=1e-4",
            options={"model": str(place / "bert"), "glue_dir": str(place / "glue")},
            console=QUIET,
        )


MISTAKES = {
    "experiment": ({"experiment": "tabel2"}, "unknown experiment 'tabel2'. Did you mean 'table2'?"),
    "family": ({"family": "llama"}, "table2 was run with roberta"),
    "task": ({"tasks": "wnli"}, "table2 has no wnli. Its tasks are rte, stsb"),
    "row": ({"rows": "lora qq"}, "no row of table2 is 'lora qq'"),
    "axis as an option": ({"options": {"rank": 4}}, "--rank is what the rows of table2 differ in"),
    "axis by another name": ({"options": {"target": "q_proj"}}, "--target is what the rows of table2 differ in"),
    "rival of an axis": (
        {"experiment": "figure1", "options": {"lr_ratio": 2}},
        "--lr-ratio is what the rows of figure1 differ in",
    ),
    "data": ({"options": {"data": "mine.csv"}}, "--data is set by the experiment"),
    "seed": ({"options": {"seed": 1}}, "Give --seeds instead"),
    "bad value": ({"options": {"epochs": -1}}, "--epochs is -1; it should be greater than 0"),
}


@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake(change: dict, message: str, tmp_path: Path) -> None:
    asked = {"experiment": "table2", "rows": "lora" if "experiment" not in change else None} | change
    with pytest.raises(ConfigError) as error:
        reproduce(asked.pop("experiment"), out=tmp_path / "out", console=QUIET, **asked)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_list_of_rows(capsys: pytest.CaptureFixture) -> None:
    assert main(["reproduce", "table1", "--preset-model", "llama", "--list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "which roles matter, by rank; meta-llama/Llama-3.1-8B; tasks qqp, mnli"
    assert shown[1] == "k rank=4"
    assert len(shown) == 13
