"""A summary as tables to read: in the terminal, Markdown, LaTeX and HTML, with text escaped for each."""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape as escape_rich
from rich.table import Table

from qvtune.amounts import format_bytes, format_seconds
from qvtune.lab.summary import AVERAGE
from qvtune.train.folder import write_text


def escape_markdown(text: str) -> str:
    """Return `text` so that Markdown shows it as it is, in one line and in one cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~$])", r"\\\1", " ".join(text.split()))


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "η": r"$\eta$", "λ": r"$\lambda$", "−": "$-$", "±": r"$\pm$",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Return `text` so that LaTeX sets it as it is."""
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))


@dataclass(frozen=True)
class Markup:
    """How a format escapes text and marks the best and the second best."""

    escape: Callable[[str], str]
    places: Mapping[int, str]
    start: str = ""


TERMINAL = Markup(escape_rich, {1: "[bold]{}[/bold]", 2: "[underline]{}[/underline]"})
MARKDOWN = Markup(escape_markdown, {1: "**{}**", 2: "*{}*"})
TEX = Markup(escape_latex, {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}, "% needs \\usepackage{booktabs}\n")
HTML = Markup(html.escape, {1: "<strong>{}</strong>", 2: "<u>{}</u>"})

LEGEND = (
    "Mean ± standard deviation over seeds. The best mean of a task is bold, the second best is {second}; the "
    "difference is to the baseline, with a 95 % confidence interval."
)


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are escaped and marked for one format: heading above each column, then rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_frame(self) -> pd.DataFrame:
        """Return it as pandas has it."""
        return pd.DataFrame(self.rows, columns=pd.Index(self.header))


def results(summary: pd.DataFrame, markup: Markup, digits: int = 4) -> TextTable:
    """Return a row per method: the mean of every task, then what the method costs."""
    name = str(summary.columns[0])
    tasks = list(summary["task"].unique())
    header = [name, *tasks, "adapter", "head", "on disk", "time", "memory", "failed"]
    rows = []
    for method in summary[name].unique():
        own = summary[summary[name] == method]
        single = own[own["task"] != AVERAGE]
        cells = [_mean(own[own["task"] == task].iloc[0], markup, digits) for task in tasks]
        seconds, memory = single["seconds"].astype(float).mean(), single["peak_memory_bytes"].max()
        costs = [
            _range(single["adapter_parameters"], "{:,}".format),
            _range(single["head_parameters"], "{:,}".format),
            _range(single["saved_bytes"], format_bytes),
            "" if pd.isna(seconds) else format_seconds(seconds),
            "" if pd.isna(memory) else format_bytes(memory),
            f"{single['failed'].sum()} of {single['runs'].sum()}",
        ]
        rows.append([markup.escape(str(method)), *cells, *map(markup.escape, costs)])
    return TextTable([markup.escape(text) for text in header], rows)


def differences(summary: pd.DataFrame, markup: Markup, digits: int = 4) -> TextTable:
    """Return a row per method and task with its difference from the baseline, and how sure that is."""
    name = str(summary.columns[0])
    header = [name, "task", "difference", "95 % interval", "pairs", "p (t)", "p (Wilcoxon)", "note"]
    rows = []
    for row in summary[summary["note"] != "the baseline"].to_dict("records"):
        cells = [
            str(row[name]),
            row["task"],
            signed(row["difference"], digits),
            ""
            if pd.isna(row["p_t"])
            else f"{signed(row['difference_low'], digits)} to {signed(row['difference_high'], digits)}",
            str(row["pairs"]),
            *("" if pd.isna(row[p]) else f"{row[p]:.3g}" for p in ("p_t", "p_wilcoxon")),
            row["note"],
        ]
        rows.append([markup.escape(cell) for cell in cells])
    return TextTable([markup.escape(text) for text in header], rows)


def signed(value: Any, digits: int) -> str:
    """Return a number with its sign, or an empty string where there is none."""
    return "" if pd.isna(value) else f"{value:+.{digits}f}".replace("-", "−")


def _mean(row: pd.Series, markup: Markup, digits: int) -> str:
    if pd.isna(row["mean"]):
        return ""
    text = f"{row['mean']:.{digits}f}" + ("" if pd.isna(row["sd"]) else f" ± {row['sd']:.{digits}f}")
    text = markup.escape(text)
    return text if pd.isna(row["place"]) else markup.places[row["place"]].format(text)


def _range(values: pd.Series, form: Callable[[int], str]) -> str:
    known = sorted({int(value) for value in values.dropna()})
    return " to ".join(form(value) for value in dict.fromkeys((known[0], known[-1]))) if known else ""


def print_table(console: Console, table: TextTable, left: int = 1) -> None:
    """Print a table of TERMINAL markup; all but the first `left` columns are numbers."""
    shown = Table()
    for index, heading in enumerate(table.header):
        shown.add_column(heading, justify="left" if index < left else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


def to_markdown(table: TextTable, left: int = 1) -> str:
    """Return a table of MARKDOWN markup."""
    align = ["left"] * left + ["right"] * (len(table.header) - left)
    return table.to_frame().to_markdown(index=False, disable_numparse=True, colalign=align if table.rows else None)


def to_latex(table: TextTable, left: int = 1) -> str:
    """Return a table of TEX markup with booktabs' rules."""
    columns = "l" * left + "r" * (len(table.header) - left)
    return table.to_frame().to_latex(index=False, escape=False, column_format=columns)


def to_html(table: TextTable) -> str:
    """Return a table of HTML markup, a fragment without styles."""
    return table.to_frame().to_html(index=False, escape=False, border=0)


def write_tables(folder: Path, summary: pd.DataFrame, remarks: Sequence[str] = ()) -> list[Path]:
    """Write `table.csv`, `table.md`, `table.tex` and `table.html` and return their paths.

    The first holds the summary's plain numbers; the others what a reader wants, and `remarks` below it.
    """
    texts = {
        "csv": summary.to_csv(index=False, lineterminator="\n"),
        "md": _page(summary, remarks, MARKDOWN, to_markdown, "{}\n", "italic"),
        "tex": TEX.start + _page(summary, remarks, TEX, to_latex, "\\par {}\n", "underlined"),
        "html": _page(summary, remarks, HTML, lambda table, left: to_html(table), "<p>{}</p>\n", "underlined"),
    }
    paths = [folder / f"table.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def _page(
    summary: pd.DataFrame,
    remarks: Sequence[str],
    markup: Markup,
    render: Callable[[TextTable, int], str],
    paragraph: str,
    second: str,
) -> str:
    parts = [render(results(summary, markup), 1)]
    compared = differences(summary, markup)
    parts += [render(compared, 2)] if compared.rows else []
    text = [paragraph.format(markup.escape(line)) for line in (LEGEND.format(second=second), *remarks)]
    return "\n\n".join(part.strip("\n") for part in (*parts, *text)) + "\n"
