"""The pages and pictures of runs and stores, made from folders alone."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from altair.vegalite.v6.schema.core import load_schema
from jsonschema import Draft7Validator
from stores import EVIL

from qvtune.errors import RunError
from qvtune.lab.store import REPRODUCTION, Store
from qvtune.report.chart import Chart, Series
from qvtune.report.curves import run_charts
from qvtune.report.document import Details, Entry, Page, Pictures, Table, entry, render
from qvtune.report.lines import draw_chart
from qvtune.report.page import write_page, write_report
from qvtune.report.plot import Plot, save_plots
from qvtune.report.run_page import run_page
from qvtune.report.store_page import best_sentences, store_page
from qvtune.training.folder import RunFolder

SVG, BLUE = "{http://www.w3.org/2000/svg}", "#0072B2"


class Reader(HTMLParser):
    """Collects tags, attributes, and the text of everything but scripts and styles."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data")]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] not in ("script", "style"):
            self.text.append(data.strip())


def figures(page: Path) -> list[str]:
    return re.findall(r'class="figure"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)


def rows(plot: Plot) -> list[dict]:
    return plot.spec["data"]["values"]


def texts(svg: Path) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.parse(svg).iter(f"{SVG}text")]


def copy_run(folder: RunFolder, to: Path) -> RunFolder:
    shutil.copytree(folder.path, to, ignore=shutil.ignore_patterns("report.html", "curves.*", "checkpoints"))
    return RunFolder(to)


def test_run_page_has_metrics_roles_and_curves_and_loads_nothing(single: RunFolder) -> None:
    written = write_report(single.path)
    assert written == [single.report, single.curves, single.curves.with_suffix(".svg")]
    assert single.curves.read_bytes().startswith(b"\x89PNG")
    reader = Reader(single.report)
    assert {"table", "details", "figure", "script"} <= set(reader.tags)
    result = json.loads(single.result.read_text())
    assert f"{result['metrics']['accuracy']:.4f}" in reader.text
    assert {"query", "value", "head", "learning rate", "loss"} <= set(reader.text)
    assert reader.addresses == ["data:,"]
    assert single.report.read_text(encoding="utf-8").count("window.vegaEmbed=") == 1


def test_sizes_of_updates_are_drawn_when_they_were_logged(single: RunFolder, tmp_path: Path) -> None:
    folder = copy_run(single, tmp_path / "run")
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    prefixes = ("update/", "step/", "output/")
    lines = [{name: v for name, v in line.items() if not name.startswith(prefixes)} for line in lines]
    assert len(run_charts(lines, "accuracy")) == 3
    for line in lines:
        line |= {"update/query": 1e-3 * line["step"], "update/value": 4e-3}
        line |= {"output/query": 1e-4, "output/key": 1e-5, "output/query_key": 2e-4, "output/value": 2e-3}
    lines[1]["warnings"] = {"value": f"the value starves {EVIL}"}
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    updates, outputs = [draw_chart(chart) for chart in run_charts(lines, "accuracy")[3:]]
    assert [row["series"] for row in rows(updates)] == ["query", "value"]
    assert [row["series"] for row in rows(outputs)] == ["key", "query", "query and key", "value"]
    assert rows(outputs)[3]["y"] == [2e-3] * len(lines)
    assert {layer["encoding"]["y"]["scale"]["type"] for plot in (updates, outputs) for layer in plot.spec["layer"]} == {
        "log"
    }
    write_report(folder.path)
    labels = texts(folder.path / "curves.svg")
    assert {"change of the weights", "query and key", "1e-3"} <= set(labels)
    assert not any("$" in label for label in labels)
    text = Reader(folder.report).text
    assert {"change of the weights", "change of the output in a step", f"the value starves {EVIL}"} <= set(text)


def test_a_loss_that_is_no_number_leaves_a_gap(single: RunFolder, tmp_path: Path) -> None:
    folder = copy_run(single, tmp_path / "run")
    folder.result.unlink()
    with open(folder.metrics, "a") as file:
        file.write('{"step": 15, "loss": NaN}\n')
    write_report(folder.path)
    loss = json.loads(figures(folder.report)[0])["data"]["values"][0]
    assert (loss["x"][-1], loss["y"][-1]) == (15, None)
    assert all(isinstance(value, float) for value in loss["y"][:-1])


def test_text_of_a_run_is_escaped(single: RunFolder, tmp_path: Path) -> None:
    folder = copy_run(single, tmp_path / "run")
    write_report(folder.path)
    scripts = Reader(folder.report).tags.count("script")
    for path, key in ((folder.result, "task"), (folder.plan, "model")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: EVIL, "notes": [EVIL]}))
    folder.config.write_text(EVIL)
    write_report(folder.path)
    reader = Reader(folder.report)
    assert reader.tags.count("script") == scripts
    assert reader.text.count(EVIL) == 2  # a note and the configuration
    assert reader.text.count(f"{EVIL} on {EVIL}") == 2  # title and heading


def test_unfinished_run_shows_what_there_is(single: RunFolder, tmp_path: Path) -> None:
    folder = copy_run(single, tmp_path / "run")
    folder.result.unlink()
    with open(folder.metrics, "a") as file:
        file.write('{"step": 15, "lo')  # killed while writing
    assert {path.name for path in write_report(folder.path)} == {"report.html", "curves.png", "curves.svg"}
    text = Reader(folder.report).text
    assert "This run has not finished; its last logged step is 14." in text
    assert "What trained" in text
    for path in (folder.plan, folder.metrics, folder.environment):
        path.unlink()
    assert write_report(folder.path) == [folder.report]
    assert "This run has not finished, and has logged nothing yet." in Reader(folder.report).text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", "{", "result.json: is damaged, or was edited: invalid JSON"),
        ("plan.json", "nonsense", "plan.json: is damaged, or was edited: invalid JSON"),
        ("metrics.jsonl", "{}\n{}\n", "metrics.jsonl: line 1 is damaged"),
        ("result.json", '{"metrics": {}}', "result.json: is damaged, or was edited: task: field required"),
        ("plan.json", "[]", "plan.json: is damaged"),
        ("environment.json", '{"seed": 0}', "files are damaged or of another version"),
    ],
)
def test_damaged_run(single: RunFolder, tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = copy_run(single, tmp_path / "run")
    (folder.path / name).write_text(content)
    with pytest.raises(RunError, match=message):
        write_report(folder.path)
    assert not folder.report.exists()


def test_folder_of_something_else(sweep: Store, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        write_report(tmp_path / "x")
    with pytest.raises(RunError, match=r"holds no run and no sweep.*Did you mean one of .*sweep"):
        write_report(sweep.path.parent)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        write_report(tmp_path / "file")


def test_sweep_page_says_what_came_out(sweep: Store) -> None:
    names = [path.name for path in write_report(sweep.path, target=0.1)]
    assert names == [
        "report.html",
        *(f"{name}.{suffix}" for name in ("heatmap", "curves", "reach") for suffix in ("png", "svg")),
    ]
    # On six examples, in two epochs, there is nothing to reach.
    assert [path.name for path in write_report(sweep.path)] == [name for name in names if "reach" not in name]
    assert any(line.startswith("How long each λ takes is not drawn") for line in Reader(sweep.report).text)
    assert (sweep.path / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    ElementTree.parse(sweep.path / "heatmap.svg")
    text = Reader(sweep.report).text
    assert "13 runs over lr (1e-3, 3e-3, 0.01), value_lr (1e-3, 0.01, 0.03) and seed (0, 1)." in text
    assert "9 of 13 runs finished, 1 stopped, 1 diverged, 1 failed, 1 pending." in text
    assert {"loss is nan at step 3", f"out of memory {EVIL}", "given up at step 2"} <= set(text)
    assert text.count("finished") == 9
    unlearned = sum(outcome.learned is False for outcome in sweep.outcomes())
    assert text.count("∅ nothing") == unlearned > 0
    assert any(line.startswith(f"{unlearned} of them learned nothing (∅)") for line in text)


def test_store_without_a_finished_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "sweep")
    runs = {f"{x}{y}": {"lr": x, "value_lr": y} for x in (1e-4, 1e-3) for y in (1e-4, 1e-3)}
    store.add("sweep", runs, {}, {})
    assert [path.name for path in write_report(store.path)] == ["report.html", "heatmap.png", "heatmap.svg"]
    text = Reader(store.report).text
    assert "No run has finished with a metric yet." in text
    assert "0 of 4 runs finished, 4 pending." in text
    # What is the same in every row takes no column.
    assert "The same for all: status pending." in text
    assert {"lr", "value lr", "run"} <= set(text)
    assert not {"status", "pending"} & set(text)


def test_comparison_page_has_the_table_and_escapes_it(comparison: Store) -> None:
    names = {path.name for path in write_report(comparison.path)}
    assert {"report.html", "curves.png", "parameters.svg"} <= names
    assert "heatmap.png" not in names
    reader = Reader(comparison.report)
    assert "Summary" in reader.text
    assert "0.75" in reader.text
    assert reader.tags.count("script") == 3 + 4 + 2  # Vega, colours and ours; four curves; two of parameters
    assert f"{EVIL}; one GPU" in reader.text
    assert EVIL in reader.text
    page = comparison.report.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    # In a picture it is text, and nothing in the page around it can take it for a tag.
    found = figures(comparison.report)
    names = [row["series"] for f in found for row in json.loads(f)["data"]["values"]]
    assert any("<script>alert" in name for name in names)
    assert not any("<" in f for f in found)
    assert any("<script>alert" in text for text in texts(comparison.path / "curves.svg"))
    assert "<script" not in (comparison.path / "curves.svg").read_text(encoding="utf-8")


def test_reproduction_page(comparison: Store, tmp_path: Path) -> None:
    shutil.copytree(comparison.path, tmp_path / "table2")
    store = Store(tmp_path / "table2")
    store.manifest.write_text(json.dumps(comparison.read() | {"kind": REPRODUCTION}))
    write_report(store.path)
    assert "Reproduction table2" in Reader(store.report).text


def test_damaged_store(comparison: Store, tmp_path: Path) -> None:
    shutil.copytree(comparison.path, tmp_path / "copy")
    (tmp_path / "copy" / "table.csv").write_text("")
    with pytest.raises(RunError, match=r"table\.csv: is no table"):
        write_report(tmp_path / "copy")
    (tmp_path / "copy" / "store.json").write_text("{")
    with pytest.raises(RunError, match=r"store\.json: is damaged"):
        write_report(tmp_path / "copy")


def test_best_is_told_per_task(make) -> None:
    runs = [
        make({"task": task, "rank": rank, "seed": seed}, rank / 10 + seed / 100)
        for task in ("rte", "mrpc")
        for rank in (2, 4)
        for seed in (0, 1)
    ]
    assert best_sentences(runs) == [
        "Best on rte with rank 4: accuracy 0.4050 ± 0.0071 (2 seeds).",
        "Best on mrpc with rank 4: accuracy 0.4050 ± 0.0071 (2 seeds).",
    ]


def test_what_learned_nothing_is_not_the_best(make) -> None:
    runs = [make({"task": task, "rank": rank}, rank / 10) for task in ("rte", "mrpc") for rank in (2, 4)]
    for run in runs[1:]:
        run.result["learned"] = False
    assert best_sentences(runs) == [
        "Best on rte with rank 2: accuracy 0.2000 (1 seed).",
        "Best on mrpc: none; every finished run learned nothing.",
    ]


def test_page_without_pictures_carries_no_libraries(tmp_path: Path) -> None:
    table = Table(EVIL, [EVIL], [[Entry(EVIL)]], sortable=True)
    (tmp_path / "x.html").write_text(render(Page(EVIL, [EVIL], [EVIL], [table, Details(EVIL, EVIL)])), encoding="utf-8")
    reader = Reader(tmp_path / "x.html")
    assert reader.text.count(EVIL) == 9
    assert (tmp_path / "x.html").stat().st_size < 20_000


def test_several_pictures_share_what_draws_them_and_ask_nobody() -> None:
    chart = Chart("x", "x", "y", [Series(EVIL, [1.0, 2.0], [1.0, 2.0])])
    sizes = []
    for number in (1, 5):
        page = render(Page("x", [], [], [Pictures("x", [draw_chart(chart)] * number)]))
        sizes.append(len(page))
        assert page.count("window.vegaEmbed=") == 1
        assert re.findall(r"(?:src|href)=[\"']?https?:", page) == []
    assert max(sizes) < 1_000_000


def test_pictures_of_a_page_are_its_files(tmp_path: Path) -> None:
    plots = [draw_chart(Chart(title, "x", "y", [Series("a", [1.0, 2.0], [1.0, 2.0])])) for title in ("one", "two")]
    page = Page("x", [], [], [Pictures("x", plots, name="both"), Pictures("y", plots[:1])])
    assert [path.name for path in write_page(tmp_path, page)] == ["report.html", "both.png", "both.svg"]
    assert {"one", "two"} <= set(texts(tmp_path / "both.svg"))
    before = (tmp_path / "both.svg").read_bytes()
    write_page(tmp_path, page)
    assert (tmp_path / "both.svg").read_bytes() == before


@pytest.mark.parametrize("name", ["sweep", "comparison", "single"])
def test_every_picture_keeps_to_the_schema(name: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(name)
    page = store_page(made) if isinstance(made, Store) else run_page(made)
    valid = Draft7Validator(load_schema())
    plots = [plot for part in page.pictures for plot in part.plots]
    assert plots
    for plot in plots:
        valid.validate(plot.for_page())
        valid.validate(plot.for_file())
    broken = plots[0].for_page()
    broken["layer"][0]["mark"]["type"] = "lien"
    assert not valid.is_valid(broken)


def test_panels_of_a_file_have_their_own_data(tmp_path: Path) -> None:
    def shapes(name: str, plots: list[Plot]) -> set[str]:
        save_plots(tmp_path / name, plots, 2)
        paths = ElementTree.parse(tmp_path / f"{name}.svg").iter(f"{SVG}path")
        return {path.get("d") for path in paths if path.get("fill") == BLUE or path.get("stroke") == BLUE}

    plots = [
        draw_chart(Chart("t", "x", "y", [Series("a", xs, xs, [0.5] * len(xs), [high] * len(xs))], y_range=(0.0, 30.0)))
        for high, xs in ((21.0, [float(x) for x in range(20)]), (25.0, [float(x) for x in range(15)]))
    ]
    apart = [shapes(str(number), [plot]) for number, plot in enumerate(plots)]
    assert len(apart[0] - apart[1]) == len(apart[1] - apart[0]) == 2  # the band and the line
    assert shapes("both", plots) == apart[0] | apart[1]


def test_a_figure_does_not_end_its_script(tmp_path: Path) -> None:
    figure = {"layout": {"title": "</script><img src=x><!--<script>"}}
    page = Page("x", [], [], [Pictures("x", [Plot("x", "x", figure)])])
    (tmp_path / "x.html").write_text(render(page), encoding="utf-8")
    assert "img" not in Reader(tmp_path / "x.html").tags
    assert json.loads(figures(tmp_path / "x.html")[0]) == figure | {"width": "container", "height": 250}


def test_entries_sort_as_numbers() -> None:
    assert entry(1234) == Entry("1,234", 1234.0)
    assert entry(4e-4) == Entry("4e-4", 4e-4)
    assert entry(0.71234567) == Entry("0.71235", 0.71234567)
    assert entry(float("nan")) == entry(None) == Entry("")
    assert entry(True) == Entry("yes")


def test_curves_draw_what_was_logged() -> None:
    records = [
        {"step": 1, "loss": 0.7, "lr/query": 1e-4, "lr/value": 4e-4},
        {"step": 2, "loss": 0.6, "lr/query": 5e-5, "lr/value": 2e-4},
        {"step": 2, "eval_loss": 0.65, "eval_accuracy": 0.75},
    ]
    loss, score, rate = [rows(draw_chart(chart)) for chart in run_charts(records, "accuracy")]
    assert [(row["x"], row["y"]) for row in loss] == [([1, 2], [0.7, 0.6]), ([2], [0.65])]
    assert [(row["x"], row["y"]) for row in score] == [([2], [0.75])]
    assert {row["series"]: row["y"][0] for row in rate} == {"query": 1e-4, "value": 4e-4}


def test_a_single_point_can_be_seen(tmp_path: Path) -> None:
    score = draw_chart(run_charts([{"step": 3, "eval_accuracy": 0.75}], "accuracy")[1])
    save_plots(tmp_path / "score", [score], 1)
    symbols = [
        path for path in ElementTree.parse(tmp_path / "score.svg").iter(f"{SVG}path") if path.get("fill") == BLUE
    ]
    assert len(symbols) == 2  # the point, and its name below
