"""Results in a notebook: the pages of their folders, in a frame, and data frames."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from tiny import save_tiny_bert, write_reviews

import qvtune
from qvtune.report.document import render
from qvtune.report.notebook import page_of
from qvtune.report.run_page import run_page

QUIET = Console(quiet=True)


class Frame(HTMLParser):
    """Takes the attributes of the one element that there may be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)
        ((self.tag, self.attributes),) = self.found

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.found.append((tag, dict(attributes)))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict:
    place = tmp_path_factory.mktemp("notebook")
    save_tiny_bert(place / "<b>bert")
    write_reviews(place / "reviews.csv", 360)
    return {"model": str(place / "<b>bert"), "data": str(place / "reviews.csv"), "batch_size": 8, "max_steps": 4}


@pytest.fixture(scope="module")
def run(options: dict, tmp_path_factory: pytest.TempPathFactory) -> qvtune.TrainedRun:
    out = tmp_path_factory.mktemp("runs") / "run"
    return qvtune.train(options | {"out": str(out), "logging_steps": 1}, console=QUIET)


def test_a_run_shows_its_page_apart_from_the_notebook(run: qvtune.TrainedRun) -> None:
    frame = Frame(run._repr_html_())
    assert frame.tag == "iframe"
    assert frame.attributes["srcdoc"] == render(run_page(run.folder))
    assert frame.attributes["sandbox"] == "allow-scripts"  # and not allow-same-origin: it cannot reach the notebook


def test_a_runs_table_has_what_it_logged(run: qvtune.TrainedRun) -> None:
    lines = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    table = run.table
    assert len(table) == len(lines)
    assert table.dropna(subset="loss").set_index("step")["loss"].to_dict() == losses


def test_a_plan_shows_its_counts(options: dict) -> None:
    plan = qvtune.plan(options)
    page = Frame(plan._repr_html_()).attributes["srcdoc"]
    for number in (*plan.parameters_by_role.values(), plan.parameters_total):
        assert f"{number:,}" in page
    assert "<b>bert" not in page
    assert plan.table["parameters"].sum() == plan.parameters_trainable
    assert plan.table.set_index("role")["learning_rate"]["value"] == plan.learning_rates["value"]


def test_a_sweep_shows_its_runs(options: dict, tmp_path: Path) -> None:
    results = qvtune.sweep(options, {"lr": [1e-3, 2e-3]}, out=tmp_path / "sweep", console=QUIET)
    page = Frame(results._repr_html_()).attributes["srcdoc"]
    assert "Sweep sweep" in page
    assert results.folder == tmp_path / "sweep"
    written = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert results.table["metric"].tolist() == pytest.approx(written["metric"].tolist())


def test_a_search_shows_its_trials(options: dict, tmp_path: Path) -> None:
    found = qvtune.suggest(
        options | {"epochs": 20, "max_steps": None}, budget=60, out=tmp_path / "search", console=QUIET
    )
    page = Frame(found._repr_html_()).attributes["srcdoc"]
    assert "Suggested: " in page
    assert len(found.table) == len(found.trials) > 0
    assert found.table["loss"].tolist() == pytest.approx([trial.to_dict()["loss"] for trial in found.trials])
    assert found.table["value_lr"].tolist() == [trial.rates["value_lr"] for trial in found.trials]


def test_other_things_have_no_page() -> None:
    with pytest.raises(TypeError, match="a dict has no page"):
        page_of({})
