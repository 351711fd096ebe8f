"""The picture and the page of a run, made from a folder alone."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from tiny import save_tiny_bert, write_reviews

from qvtune.report.curves import draw_curves
from qvtune.report.page import write_report
from qvtune.train.config import make_config
from qvtune.train.folder import RunFolder
from qvtune.train.run import run

EVIL = "<script>alert('x')</script>&\""


class Reader(HTMLParser):
    """Collects tags, and the text of table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    place = tmp_path_factory.mktemp("report")
    save_tiny_bert(place / "bert")
    settings = {"model": place / "bert", "data": write_reviews(place / "reviews.csv", 40), "out": place / "run"}
    run(make_config({name: str(path) for name, path in settings.items()}), Console(quiet=True))
    return RunFolder(place / "run")


def test_page_has_metrics_roles_and_picture_and_loads_nothing(folder: RunFolder) -> None:
    write_report(folder)
    assert folder.curves.read_bytes().startswith(b"\x89PNG")
    page = folder.report.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert {"svg", "table", "details"} <= set(reader.tags)
    assert "script" not in reader.tags
    result = json.loads(folder.result.read_text())
    assert f"{result['metrics']['accuracy']:.4f}" in reader.text
    assert {"query", "value", "head"} <= set(reader.text)
    # Namespaces of SVG are names, not addresses that a browser asks.
    addresses = re.findall(r"""(?:src|href)=["'](https?:[^"']+)""", page)
    assert addresses == []


def test_text_from_data_is_escaped(folder: RunFolder, tmp_path: Path) -> None:
    for path in (folder.result, folder.plan, folder.metrics, folder.config, folder.environment):
        (tmp_path / path.name).write_text(path.read_text())
    copy = RunFolder(tmp_path)
    for path, key in ((copy.result, "task"), (copy.plan, "model")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: EVIL, "notes": [EVIL]}))
    copy.config.write_text(EVIL)
    write_report(copy)
    page = copy.report.read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 6  # in the title twice for model and task, in a note and the configuration


def test_curves_draw_what_was_logged() -> None:
    records = [
        {"step": 1, "loss": 0.7, "lr/query": 1e-4, "lr/value": 4e-4},
        {"step": 2, "loss": 0.6, "lr/query": 5e-5, "lr/value": 2e-4},
        {"step": 2, "eval_loss": 0.65, "eval_accuracy": 0.75},
    ]
    loss, score, rate = draw_curves(records, "accuracy").get_axes()
    assert [line.get_xydata().tolist() for line in loss.get_lines()] == [[[1, 0.7], [2, 0.6]], [[2, 0.65]]]
    assert score.get_lines()[0].get_xydata().tolist() == [[2, 0.75]]
    assert {line.get_label(): line.get_ydata()[0] for line in rate.get_lines()} == {"query": 1e-4, "value": 4e-4}


def test_a_single_point_can_be_seen() -> None:
    _, score, _ = draw_curves([{"step": 3, "eval_accuracy": 0.75}], "accuracy").get_axes()
    assert score.get_lines()[0].get_marker() == "o"


def test_picture_in_the_page_takes_the_colours_of_the_page(folder: RunFolder) -> None:
    write_report(folder)
    svg = folder.report.read_text(encoding="utf-8").partition("<svg")[2].partition("</svg>")[0]
    assert "#000000" not in svg
    assert "#ffffff" not in svg
    assert 'fill="currentColor"' in svg
