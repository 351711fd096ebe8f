"""The summary of a comparison against numbers worked out by hand, and its formats read back."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from qvtune.lab import formats
from qvtune.lab.summary import summarize

METRICS = {
    "lora": {"rte": [0.70, 0.72, 0.74], "cola": [0.50, 0.54, 0.52]},
    "full": {"rte": [0.71, 0.75, 0.73], "cola": [0.40, 0.44, 0.42]},
    "dora": {"rte": [0.72, 0.72, 0.72], "cola": [0.60, None, 0.62]},
}
HEADS = {"rte": 100, "cola": 150}


def make_results(metrics: dict = METRICS) -> pd.DataFrame:
    rows = []
    for method, tasks in metrics.items():
        for task, values in tasks.items():
            for seed, value in enumerate(values):
                known = value is not None
                rows.append(
                    {
                        "method": method,
                        "task": task,
                        "seed": seed,
                        "status": "finished" if known else "failed",
                        "metric": value,
                        "metric_name": ("accuracy" if task == "rte" else "matthews_correlation") if known else None,
                        "seconds": 10.0 + seed if known else None,
                        "trained_parameters": 1000 + HEADS[task] if known else None,
                        "adapter_parameters": 1000 if known else None,
                        "head_parameters": HEADS[task] if known else None,
                        "saved_bytes": 5000 if known else None,
                        "peak_memory_bytes": 2**20 * (seed + 20) if known else None,
                    }
                )
    return pd.DataFrame(rows)


def pick(summary: pd.DataFrame, method: str, task: str) -> pd.Series:
    return summary[(summary["method"] == method) & (summary["task"] == task)].iloc[0]


def test_means_of_what_learned_nothing_are_marked(tmp_path: Path) -> None:
    results = make_results()
    plain = summarize(results, "lora")
    results["learned"] = None
    results.loc[(results["method"] == "full") & (results["task"] == "rte"), "learned"] = False
    results.loc[(results["method"] == "dora") & (results["seed"] == 0), "learned"] = False
    summary = summarize(results, "lora")
    assert plain["unlearned"].sum() == 0
    counts = {(m, t): n for m, t, n in summary[["method", "task", "unlearned"]].itertuples(index=False)}
    assert counts["full", "rte"] == counts["full", "average"] == 3
    assert (counts["dora", "rte"], counts["dora", "cola"], counts["lora", "rte"]) == (1, 1, 0)
    rows = {row[0]: row[1:] for row in formats.means(summary, formats.HTML, 2).rows}
    assert rows["full"][:2] == ["<strong>0.73 ± 0.02 ∅</strong>", "0.42 ± 0.02"]
    assert rows["dora"][1] == "<strong>0.61 ± 0.01 ∅ 1 of 2</strong>"
    formats.write_tables(tmp_path, summary)
    assert r"$\emptyset$" in (tmp_path / "table.tex").read_text()
    assert "∅ marks means over runs that learned nothing" in (tmp_path / "table.md").read_text()
    formats.write_tables(tmp_path, plain)
    assert "∅" not in (tmp_path / "table.md").read_text()


def test_means_and_costs() -> None:
    summary = summarize(make_results(), "lora")
    assert list(summary["method"].unique()) == ["lora", "full", "dora"]
    assert list(summary["task"].unique()) == ["rte", "cola", "average"]
    row = pick(summary, "lora", "rte")
    assert row["mean"] == pytest.approx(0.72)
    assert row["sd"] == pytest.approx(0.02)
    assert (row["n"], row["runs"], row["failed"], row["metric"]) == (3, 3, 0, "accuracy")
    assert (row["adapter_parameters"], row["head_parameters"], row["trained_parameters"]) == (1000, 100, 1100)
    assert row["seconds"] == pytest.approx(11.0)
    assert row["peak_memory_bytes"] == 22 * 2**20


def test_a_failed_run_is_counted_and_left_out_of_the_mean() -> None:
    row = pick(summarize(make_results(), "lora"), "dora", "cola")
    assert (row["n"], row["runs"], row["failed"]) == (2, 3, 1)
    assert row["mean"] == pytest.approx(0.61)
    assert row["pairs"] == 2


def test_average_is_of_the_means_of_tasks_and_its_spread_of_whole_seeds() -> None:
    summary = summarize(make_results(), "lora")
    row = pick(summary, "full", "average")
    assert row["mean"] == pytest.approx((0.73 + 0.42) / 2)
    assert row["sd"] == pytest.approx(np.std([0.555, 0.595, 0.575], ddof=1))
    assert row["n"] == 3
    assert pick(summary, "dora", "average")["n"] == 2
    assert pd.isna(row["head_parameters"])
    assert row["adapter_parameters"] == 1000


def test_a_method_without_a_result_for_a_task_has_no_average() -> None:
    metrics = METRICS | {"dora": {"rte": [0.9, 0.9, 0.9], "cola": [None, None, None]}}
    summary = summarize(make_results(metrics), "lora")
    row = pick(summary, "dora", "average")
    assert pd.isna(row["mean"])
    assert pd.isna(row["place"])
    assert row["failed"] == 3
    assert pick(summary, "dora", "cola")["note"] == "no pair: no test"


def test_places_and_ties() -> None:
    summary = summarize(make_results(), "lora")
    places = {(row["method"], row["task"]): row["place"] for _, row in summary.iterrows()}
    assert [places[m, "cola"] for m in ("dora", "lora")] == [1, 2]
    assert pd.isna(places["full", "cola"])
    # lora and dora have the same mean on rte, added up from other numbers.
    assert [places[m, "rte"] for m in ("full", "lora", "dora")] == [1, 2, 2]


def test_tests_are_over_the_pairs_of_task_and_seed() -> None:
    summary = summarize(make_results(), "lora")
    row = pick(summary, "full", "rte")
    expected = stats.ttest_rel(METRICS["full"]["rte"], METRICS["lora"]["rte"])
    assert row["difference"] == pytest.approx(0.01)
    assert row["p_t"] == pytest.approx(expected.pvalue)
    both = [[*METRICS[m]["rte"], *METRICS[m]["cola"]] for m in ("full", "lora")]
    pooled = pick(summary, "full", "average")
    assert pooled["pairs"] == 6
    assert pooled["p_t"] == pytest.approx(stats.ttest_rel(*both).pvalue)
    assert pooled["p_wilcoxon"] == pytest.approx(stats.wilcoxon(*both).pvalue)
    assert pick(summary, "lora", "rte")["note"] == "the baseline"


def test_csv_holds_plain_numbers(tmp_path: Path) -> None:
    summary = summarize(make_results(), "lora")
    formats.write_tables(tmp_path, summary, ["A remark."])
    read = pd.read_csv(tmp_path / "table.csv")
    assert list(read.columns) == list(summary.columns)
    assert len(read) == 9
    assert pick(read, "full", "rte")["mean"] == pick(summary, "full", "rte")["mean"]
    assert pick(read, "full", "rte")["adapter_parameters"] == 1000


EVIL = "lo|ra_$x$ & <script>alert(1)</script> \\textbf{50%} [bold]*b*"


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    metrics = {EVIL: METRICS["lora"], "full": METRICS["full"]}
    formats.write_tables(tmp_path, summarize(make_results(metrics), "full"), [f"remark {EVIL}"])
    return tmp_path


def test_text_is_escaped_in_html(evil: Path) -> None:
    text = (evil / "table.html").read_text()
    assert "<script>" not in text
    reader = Cells()
    reader.feed(text)
    assert EVIL in reader.texts
    assert "<strong>0.7300 ± 0.0200</strong>" in text
    assert "<u>0.7200 ± 0.0200</u>" in text


def test_text_is_escaped_in_markdown(evil: Path) -> None:
    lines = (evil / "table.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith("| lo"))
    cells = re.split(r"(?<!\\)\|", row)[1:-1]
    assert len(cells) == 4
    assert re.sub(r"\\(.)", r"\1", cells[0].strip()) == EVIL
    assert "**0.7300 ± 0.0200**" in "\n".join(lines)


def test_latex_is_set(evil: Path) -> None:
    text = (evil / "table.tex").read_text()
    assert text.count(r"\toprule") == 3
    row = next(line for line in text.splitlines() if line.startswith("lo|ra"))
    assert row.startswith(
        r"lo|ra\_\$x\$ \& \textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{} "
        r"\textbackslash{}textbf\{50\%\} [bold]*b*"
    )
    assert len(re.findall(r"(?<!\\)&", row)) == 3
    assert r"\textbf{0.7300 $\pm$ 0.0200}" in text
    if shutil.which("pdflatex"):
        page = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + text + r"\end{document}"
        (evil / "page.tex").write_text(page)
        subprocess.run(["pdflatex", "-halt-on-error", "page.tex"], cwd=evil, check=True, capture_output=True)


def test_terminal_shows_text_as_it_is(capsys: pytest.CaptureFixture) -> None:
    summary = summarize(make_results({EVIL: METRICS["lora"], "full": METRICS["full"]}), "full")
    formats.print_table(Console(width=400), formats.by_task(summary, formats.TERMINAL))
    shown = capsys.readouterr().out
    assert EVIL in shown
    assert "0.7200 ± 0.0200" in shown
