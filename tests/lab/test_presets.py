"""The paper's experiments against what the paper states: rows, grids, hyperparameters and published numbers."""

from pathlib import Path

import pytest

from qvtune.data.glue import GLUE
from qvtune.errors import ConfigError
from qvtune.lab.presets import (
    BEFORE,
    PRESETS,
    PUBLISHED_METRIC,
    choose_rows,
    find_preset,
    published_numbers,
    row_name,
)
from qvtune.methods.table import METHODS
from qvtune.training.config import make_config

ALL = list(PRESETS.values())
IDS = [f"{preset.experiment}-{preset.family}" for preset in ALL]


def test_table2_has_the_published_rows() -> None:
    preset = find_preset("table2")
    names = [row_name(row) for row in preset.rows]
    # full QKV; LoRA and DoRA QKV at two ranks; full QV at three λ; LoRA and DoRA QV at two ranks and three λ
    assert len(names) == len(set(names)) == 1 + (1 + 2 * 2 + 3 + 2 * 2 * 3)
    counts = {m: sum(row["method"] == m for row in preset.rows) for m in ("before", "full", "lora", "dora")}
    assert counts == {"before": 1, "full": 4, "lora": 8, "dora": 8}
    assert {row["rank"] for row in preset.rows if "rank" in row} == {8, 16}
    published = published_numbers(preset)
    assert {row for row, _ in published} == set(names)
    assert len(published) == 21 * 8


def test_table2_numbers_as_published() -> None:
    published = published_numbers(find_preset("table2"))
    assert published["before", "stsb"] == -3.18
    assert published["lora qv rank=8 lr_ratio=8", "rte"] == 76.13
    assert published["full qv lr_ratio=8", "qnli"] == 50.54
    assert published["dora qv rank=16 lr_ratio=8", "cola"] == 60.32
    assert published["full qkv lr_ratio=1", "mnli"] == 86.68


def test_figure2_cells_as_published() -> None:
    preset = find_preset("figure2")
    published = published_numbers(preset)
    assert published == {
        ("lr=1e-06 value_lr=1e-06", "mnli"): 37.4,
        ("lr=5e-06 value_lr=5e-06", "mnli"): 82.7,
        ("lr=1e-05 value_lr=1e-05", "mnli"): 87.8,
        ("lr=5e-05 value_lr=5e-05", "mnli"): 90.0,
        ("lr=0.0001 value_lr=0.0001", "mnli"): 90.5,
        ("lr=5e-06 value_lr=0.0002", "mnli"): 91.0,
        ("lr=5e-05 value_lr=0.0004", "mnli"): 91.0,
    }
    assert {row for row, _ in published} <= {row_name(row) for row in preset.rows}


def test_grids() -> None:
    figure1, figure2 = find_preset("figure1"), find_preset("figure2")
    for preset, low, high, rows, columns in ((figure1, 2e-5, 2e-3, 6, 6), (figure2, 1e-6, 4e-4, 5, 7)):
        assert len(preset.rows) == rows * columns
        assert len({row["lr"] for row in preset.rows}) == rows
        assert len({row["value_lr"] for row in preset.rows}) == columns
        assert min(row["lr"] for row in preset.rows) == low
        assert max(row["value_lr"] for row in preset.rows) == high
    assert list(figure1.tasks) == ["qqp", "mnli"]
    assert list(figure2.tasks) == ["mnli"]


def test_table1() -> None:
    roberta, llama = find_preset("table1"), find_preset("table1", "llama")
    for preset in (roberta, llama):
        assert len(preset.rows) == 12
        assert {row["roles"] for row in preset.rows} == {"k", "v", "qv", "qkv"}
        assert {row["rank"] for row in preset.rows} == {4, 8, 16}
    assert list(roberta.tasks) == ["sst2", "qnli", "qqp", "mnli"]
    assert list(llama.tasks) == ["qqp", "mnli"]
    assert (roberta.options["lr"], roberta.options["lr_ratio"], roberta.options["epochs"]) == (4e-4, 2.5, 30)
    assert (llama.options["lr"], llama.options["lr_ratio"]) == (5e-5, 2.5)


@pytest.mark.parametrize("preset", ALL, ids=IDS)
def test_every_run_is_a_configuration_with_the_stated_hyperparameters(preset) -> None:
    runs = [(labels, options) for labels, options in preset.runs() if options["method"] in METHODS]
    assert len(runs) > 0
    for labels, options in runs:
        config = make_config({**options, "model": preset.model, "out": "none"})
        assert config.max_length == 128
        assert config.weight_decay == 0
        assert config.warmup == 0
        assert config.data == f"glue/{labels['task']}"
        assert not config.keep_best
        if preset.family == "roberta":
            assert (config.batch_size, config.accumulation, config.schedule) == (32, 1, "linear")
            assert (config.adam_beta1, config.adam_beta2, config.adam_epsilon) == (0.9, 0.99, 1e-8)
            assert (config.precision, config.eval_steps, config.max_steps) == ("fp16", 500, None)
        else:
            assert (config.batch_size, config.accumulation, config.schedule) == (128, 2, "constant")
            assert (config.adam_beta2, config.max_steps, config.eval_steps) == (0.999, 800, 50)
            assert config.gradient_checkpointing
        if config.method == "lora":
            assert config.alpha == (8 if preset.family == "roberta" else 16)
        if preset.experiment == "table2":
            assert config.lr == 1e-4
            assert config.epochs == (20 if labels["task"] in ("rte", "stsb", "mrpc", "cola") else 10)
            assert config.lr_ratio == labels["lr_ratio"]
        if preset.experiment == "figure1":
            assert (config.rank, config.epochs) == (8, 6)
        if preset.experiment == "figure2":
            assert (config.rank, config.roles) == (16, "qv")
        if preset.experiment.startswith("figure"):
            assert (config.lr, config.value_lr) == (labels["lr"], labels["value_lr"])


def test_published_metrics_are_the_main_metrics_of_the_tasks() -> None:
    for preset in ALL:
        for task in preset.tasks:
            assert GLUE[task].main_metric == PUBLISHED_METRIC.get(task, "accuracy")


def test_rows_by_description() -> None:
    preset = find_preset("table2")
    assert [row_name(row) for row in choose_rows(preset, "before,lora qkv")] == [
        "before",
        "lora qkv rank=8 lr_ratio=1",
        "lora qkv rank=16 lr_ratio=1",
    ]
    assert len(choose_rows(preset, "lora+qv+rank=8")) == 3
    assert len(choose_rows(preset, "full")) == 4
    for row in preset.rows:
        assert choose_rows(preset, [row_name(row)]) == [row] or row == BEFORE
    grid = find_preset("figure2")
    assert [row_name(row) for row in choose_rows(grid, "lr=5e-6 value_lr=2e-4")] == ["lr=5e-06 value_lr=0.0002"]
    assert len(choose_rows(grid, "lr=5e-6")) == 7


@pytest.mark.parametrize("rows", ["lora qq", "rank=7", "lora rank=x", "color=red", "lorra", ""])
def test_rows_that_are_not_there(rows: str) -> None:
    with pytest.raises(ConfigError) as error:
        choose_rows(find_preset("table2"), rows)
    assert "--rows" in str(error.value)


@pytest.mark.parametrize(
    ("experiment", "family", "message"),
    [
        ("tabel2", None, "Did you mean 'table2'?"),
        ("table2", "llama", "table2 was run with roberta"),
        ("figure2", "roberta", "figure2 was run with llama"),
    ],
)
def test_experiments_that_the_paper_does_not_have(experiment: str, family: str | None, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_preset(experiment, family)
    assert message in str(error.value)


def test_published_files_are_part_of_the_package() -> None:
    import qvtune.lab.presets

    folder = Path(qvtune.lab.presets.__file__).parent / "published"
    assert sorted(path.name for path in folder.iterdir()) == ["figure2.csv", "table2.csv"]
