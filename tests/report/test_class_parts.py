"""Classes, confusion matrix, mistakes and warnings on the page of a run, and in the terminal."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import precision_recall_fscore_support
from stores import EVIL
from tiny import make_reviews, save_tiny_bert

from qvtune.cli.main import main
from qvtune.cli.predictions import print_classes, print_mistakes
from qvtune.errors import RunError
from qvtune.report.class_parts import MOST_CLASSES, class_parts, mistakes_table
from qvtune.report.document import Matrix, Page, Table, render
from qvtune.report.page import write_report
from qvtune.tasks.classification import Classification
from qvtune.training.folder import RunFolder


class Cells(HTMLParser):
    """The tables of a page as rows of text, and the names of all tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: list[str] = []
        self.in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.tables[-1][-1][-1] += data.strip()


def result_of(classes: int, examples: int = 300) -> dict:
    generator = np.random.default_rng(classes)
    names = tuple(f"{EVIL} {i}" if i == 1 else f"class {i}" for i in range(classes))
    task = Classification("t", names, "classes", "accuracy", ("text",), "label")
    labels = generator.integers(classes, size=examples)
    scores = np.eye(classes)[labels] + generator.normal(size=(examples, classes)) * 0.4
    return task.class_table(scores, labels) | {"reported_on": ["validation"], "scores": scores, "true": labels}


@pytest.mark.parametrize("classes", [2, 7, 43])
def test_page_has_the_numbers_of_scikit_learn(classes: int) -> None:
    result = result_of(classes)
    cells = Cells(render(Page("x", [], [], class_parts(result))))
    table, matrix = cells.tables[:2]
    expected = precision_recall_fscore_support(
        result["true"], result["scores"].argmax(axis=1), labels=range(classes), zero_division=0.0
    )
    for row, *values in zip(table[1:], *expected, strict=True):
        assert row[1:5] == [*(f"{value:.3f}" for value in values[:3]), str(values[3])]
    names = [entry["label"] for entry in result["classes"]]
    assert (matrix[0][1:], [row[0] for row in matrix[1:]]) == (names, names)
    assert [[int(n.replace("·", "0")) for n in row[1:]] for row in matrix[1:]] == result["confusion"]
    assert "script" in cells.tags  # the page's own
    assert cells.tags.count("script") == 1


def test_many_classes_are_shown_by_their_mistakes() -> None:
    result = result_of(MOST_CLASSES + 20, 4000)
    matrix = next(part for part in class_parts(result) if isinstance(part, Matrix))
    assert len(matrix.labels) == len(matrix.counts) == len(matrix.counts[0]) == MOST_CLASSES
    assert "20 left out" in matrix.text
    confusion = np.array(result["confusion"])
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * confusion.diagonal()
    names = [entry["label"] for entry in result["classes"]]
    shown = {names.index(label) for label in matrix.labels}
    assert min(wrong[sorted(shown)]) >= max(wrong[sorted(set(range(len(names))) - shown)])


def test_what_is_not_defined_is_empty() -> None:
    task = Classification("t", ("a", "b", "c"), "classes", "accuracy", ("text",), "label")
    result = task.class_table(np.eye(3)[[0, 0, 1]], np.array([0, 0, 0])) | {"reported_on": ["one", "two"]}
    table = class_parts(result)[0]
    assert isinstance(table, Table)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a", "1.000", "0.667", "0.800", "3", "2"],
        ["b", "0.000", "", "0.000", "0", "1"],
        ["c", "", "", "", "0", "0"],
    ]
    assert "one and two together" in table.text
    assert class_parts({"metrics": {}}) == []


def test_cells_are_coloured_by_the_share_of_their_row() -> None:
    matrix = Matrix("x", ["a", "b"], [[3, 1], [0, 0]], "")
    assert [[matrix.share(i, j) for j in (0, 1)] for i in (0, 1)] == [[0.75, 0.25], [0, 0]]
    page = render(Page("x", [], [], [matrix]))
    assert re.findall(r"--share: ([0-9.]+)\"", page) == ["0.7500", "0.2500"]
    assert "a called b: 1 of 4, 25%" in page
    kinds = [Matrix("", [""] * n, []).kind for n in (2, 4, 5, 20, 21, 43)]
    assert kinds == ["few", "few", "many", "many", "many dense", "many dense"]


def test_mistakes_of_a_regression_and_of_pairs() -> None:
    (table,) = mistakes_table([{"text": "a", "text_pair": "b", "label": 1.0, "prediction": 3.5, "error": 2.5}])
    assert table.columns == ["text", "second text", "label", "prediction", "error"]
    assert [cell.text for cell in table.rows[0]] == ["a", "b", "1.000", "3.500", "2.500"]
    assert mistakes_table([]) == []


@pytest.fixture(scope="module")
def unlearned(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that learned nothing, of texts and labels that are scripts."""
    place = tmp_path_factory.mktemp("unlearned")
    save_tiny_bert(place / "bert")
    rows = [(f"{text} {EVIL}", label.replace("negative", EVIL)) for text, label in make_reviews(80)]
    with open(place / "reviews.csv", "w", newline="") as out:
        csv.writer(out).writerows([("text", "label"), *rows])
    words = f"train --model {place}/bert --data {place}/reviews.csv --max-steps 1 --lr 1e-6 --head-start random "
    words += f"--out {place}/run"
    assert main(words.split()) == 0
    return RunFolder(place / "run")


def test_page_of_a_run_shows_mistakes_and_warnings_as_text(unlearned: RunFolder) -> None:
    page = unlearned.report.read_text(encoding="utf-8")
    cells = Cells(page)
    result = json.loads(unlearned.result.read_text())
    mistakes = [json.loads(line) for line in unlearned.mistakes.read_text().splitlines()]
    table = next(table for table in cells.tables if table[0][:2] == ["text", "label"])
    assert [row[0] for row in table[1:]] == [mistake["text"] for mistake in mistakes]
    assert [row[3] for row in table[1:]] == [f"{mistake['probability']:.3f}" for mistake in mistakes]
    assert all(EVIL in row[0] for row in table[1:])
    assert "<script>alert" not in page
    assert '<ul class="warnings"><li>Warning: all 8 predictions on the validation set are' in page
    assert len(result["warnings"]) == page.count("<li>Warning:") == 1
    # The same page again, of the folder alone; and without the file of an earlier version.
    write_report(unlearned.path)
    assert unlearned.report.read_text(encoding="utf-8") == page
    kept = unlearned.mistakes.read_bytes()
    unlearned.mistakes.unlink()
    write_report(unlearned.path)
    assert "Worst mistakes" not in unlearned.report.read_text(encoding="utf-8")
    unlearned.mistakes.write_text("{")
    with pytest.raises(RunError, match=r"mistakes\.jsonl: is damaged"):
        write_report(unlearned.path)
    unlearned.mistakes.write_bytes(kept)


def test_evaluate_prints_tables_and_json(unlearned: RunFolder, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", "--run", str(unlearned.path), "--mistakes", "2"]) == 0
    text = capsys.readouterr().out
    assert {"precision", "recall", "F1", "support"} <= set(re.findall(r"\w+", text))
    assert "Confusion matrix: rows are labels" in text
    assert "Warning: all 8 predictions on these examples are" in text
    assert main(["evaluate", "--run", str(unlearned.path), "--mistakes", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    result = json.loads(unlearned.result.read_text())
    assert (found["classes"], found["confusion"]) == (result["classes"], result["confusion"])
    assert len(found["mistakes"]) == 2
    assert main(["evaluate", "--run", str(unlearned.path), "--json"]) == 0
    assert "mistakes" not in json.loads(capsys.readouterr().out)


def test_terminal_shows_brackets_as_they_are_and_lists_many_classes() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    numbers = {"precision": 0.5, "recall": 1, "f1": 0.2, "support": 9, "predicted": 1}
    classes = [{"label": f"[red]{name}"} | numbers for name in "ab"]
    print_classes(console, classes, [[1234, 7], [0, 3]])
    text = console.export_text()
    assert "[red]a" in text
    assert "1,234" in text
    result = result_of(30)
    print_classes(console, result["classes"], result["confusion"])
    largest = max(n for i, row in enumerate(result["confusion"]) for j, n in enumerate(row) if i != j)
    text = console.export_text()
    assert "Confusion matrix" not in text
    assert f"│ {largest:>8,} │" in text.partition("Most frequent confusions")[2]
    print_mistakes(console, [{"text": f"[b]{EVIL}\nx", "label": "a", "prediction": "[i]", "probability": 0.98765}])
    text = console.export_text()
    assert f"[b]{EVIL} x" in text
    assert "0.9877" in text
