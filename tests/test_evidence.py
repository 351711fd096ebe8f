"""The page about the evidence says what its raw results say."""

import importlib
import sys
from pathlib import Path

import pandas as pd
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
EVIDENCE = REPOSITORY / "docs" / "evidence"


@pytest.fixture(scope="module")
def modules() -> tuple:
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        return importlib.import_module("evidence"), importlib.import_module("evidence_page")
    finally:
        sys.path.pop(0)


def test_the_page_is_made_from_the_raw_results(modules: tuple, tmp_path: Path) -> None:
    evidence, page = modules
    for name in ("runs.csv", "curves.csv", "heatmap.csv"):
        (tmp_path / "evidence").mkdir(exist_ok=True)
        (tmp_path / "evidence" / name).write_bytes((EVIDENCE / name).read_bytes())
    page.write_page(tmp_path / "evidence", evidence.SETTINGS)
    assert (tmp_path / "evidence.md").read_text() == EVIDENCE.with_suffix(".md").read_text()
    assert (tmp_path / "evidence" / "heatmap.png").stat().st_size > 10_000


def test_every_run_that_the_page_speaks_of_is_there(modules: tuple) -> None:
    evidence, _ = modules
    runs = pd.read_csv(EVIDENCE / "runs.csv")
    assert len(runs) == len(evidence.TASKS) * (len(evidence.ROLES) + len(evidence.RATIOS) - 1) * len(evidence.SEEDS)
    assert set(runs["status"]) == {"finished"}
    heatmap = pd.read_csv(EVIDENCE / "heatmap.csv")
    assert len(heatmap) == len(evidence.RATES) ** 2 * len(evidence.SEEDS)


def test_steps_to_reach_what_one_reaches_at_its_end(modules: tuple) -> None:
    _, page = modules
    metrics = {
        ("qv", 1): [0.5, 0.6, 0.7],
        ("qv", 4): [0.65, 0.71, 0.6],
        ("qv", 8): [0.1, 0.2, 0.3],
        ("qkv", 1): [0.9] * 3,
    }
    rows = [
        ("t", roles, ratio, 0, step, metric)
        for (roles, ratio), values in metrics.items()
        for step, metric in zip((10, 20, 40), values, strict=True)
    ]
    curves = pd.DataFrame(rows, columns=["task", "roles", "lr_ratio", "seed", "step", "metric"])
    steps = page.steps_to_reach(curves).set_index("lr_ratio")["part"]
    assert steps[1] == 1.0
    assert steps[4] == 0.5
    assert pd.isna(steps[8])


def test_a_difference_is_of_pairs(modules: tuple) -> None:
    _, page = modules
    runs = pd.DataFrame(
        [("a", 0, "v", 0.9), ("a", 1, "v", 0.8), ("a", 0, "k", 0.5), ("a", 1, "k", 0.6), ("b", 0, "v", 0.1)],
        columns=["task", "seed", "roles", "metric"],
    )
    test = page.difference(runs, {"roles": "v"}, {"roles": "k"})
    assert test.pairs == 2  # b has no partner
    assert test.difference == pytest.approx(0.3)
