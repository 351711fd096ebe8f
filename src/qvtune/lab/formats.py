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
from qvtune.files import write_text
from qvtune.lab.outcome import UNLEARNED
from qvtune.lab.summary import AVERAGE, BASELINE


def escape_markdown(text: str) -> str:
    """Return `text` so that Markdown shows it unchanged, in one line and in one cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~$])", r"\\\1", " ".join(text.split()))


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "η": r"$\eta$", "λ": r"$\lambda$", "−": "$-$", "±": r"$\pm$", "∅": r"$\emptyset$",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Return `text` so that LaTeX prints it unchanged."""
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))


@dataclass(frozen=True)
class Markup:
    """How a format escapes text and marks the best and the second best."""

    escape: Callable[[str], str]
    places: Mapping[int, str]


TERMINAL = Markup(escape_rich, {1: "[bold]{}[/bold]", 2: "[underline]{}[/underline]"})
MARKDOWN = Markup(escape_markdown, {1: "**{}**", 2: "*{}*"})
TEX = Markup(escape_latex, {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"})
HTML = Markup(html.escape, {1: "<strong>{}</strong>", 2: "<u>{}</u>"})

LEGEND = (
    "Mean ± standard deviation over seeds. The best mean of a task is bold, the second best is {second}; the "
    "difference is to the baseline, with a 95 % confidence interval."
)


UNLEARNED_LEGEND = (
    f"{UNLEARNED} marks means over runs that learned nothing, all of them or as many as it says: they are what "
    "guessing has."
)


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are escaped and marked for one format.

    `align` has a letter per column, l or r; `groups` lists the rows that get a line above them, if there is room.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str
    groups: Sequence[int] = ()

    def to_frame(self) -> pd.DataFrame:
        """Return the table as a pandas DataFrame."""
        return pd.DataFrame(self.rows, columns=pd.Index(self.header))


def means(summary: pd.DataFrame, markup: Markup, digits: int = 4) -> TextTable:
    """Return a row per method with the mean of every task."""
    name = str(summary.columns[0])
    tasks = list(summary["task"].unique())
    rows = []
    for method in summary[name].unique():
        own = summary[summary[name] == method]
        cells = [_mean(own[own["task"] == task].iloc[0], markup, digits) for task in tasks]
        rows.append([markup.escape(str(method)), *cells])
    return TextTable([markup.escape(text) for text in (name, *tasks)], rows, "l" + "r" * len(tasks))


def costs(summary: pd.DataFrame, markup: Markup) -> TextTable:
    """Return a row per method: parameters, size on disk, time and memory over all tasks, and failed runs."""
    name = str(summary.columns[0])
    rows = []
    for method in summary[name].unique():
        own = summary[(summary[name] == method) & (summary["task"] != AVERAGE)]
        seconds, memory = own["seconds"].astype(float).mean(), own["peak_memory_bytes"].max()
        cells = [
            str(method),
            _range(own["adapter_parameters"], "{:,}".format),
            _range(own["head_parameters"], "{:,}".format),
            _range(own["saved_bytes"], format_bytes),
            "" if pd.isna(seconds) else format_seconds(seconds),
            "" if pd.isna(memory) else format_bytes(memory),
            f"{own['failed'].sum()} of {own['runs'].sum()}",
        ]
        rows.append([markup.escape(cell) for cell in cells])
    header = [name, "adapter", "head", "on disk", "time", "memory", "failed"]
    return TextTable([markup.escape(text) for text in header], rows, "lrrrrrr")


def differences(summary: pd.DataFrame, markup: Markup, digits: int = 4) -> TextTable:
    """Return a row per method and task with its difference from the baseline, and how certain that is."""
    name = str(summary.columns[0])
    rows = []
    for row in summary[summary["note"] != BASELINE].to_dict("records"):
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
    header = [name, "task", "difference", "95 % interval", "pairs", "p (t)", "p (Wilcoxon)", "note"]
    return TextTable([markup.escape(text) for text in header], rows, "llrrrrrl")


def by_task(summary: pd.DataFrame, markup: Markup, digits: int = 4) -> TextTable:
    """Return a row per task and method, narrow enough for a terminal."""
    name = str(summary.columns[0])
    rows: list[list[str]] = []
    groups = []
    for task in summary["task"].unique():
        groups.append(len(rows))
        for _, row in summary[summary["task"] == task].iterrows():
            certainty = row["note"] if pd.isna(row["p_t"]) else f"{row['p_t']:.3g}"
            cells = [signed(row["difference"], digits), certainty]
            rows.append(
                [
                    *map(markup.escape, (task, str(row[name]))),
                    _mean(row, markup, digits),
                    str(row["n"]),
                    *map(markup.escape, cells),
                ]
            )
    header = ["task", name, "mean", "seeds", "difference", "p (t)"]
    return TextTable([markup.escape(text) for text in header], rows, "llrrrl", groups[1:])


def signed(value: Any, digits: int) -> str:
    """Return a number with its sign, or an empty string if there is none."""
    return "" if pd.isna(value) else f"{value:+.{digits}f}".replace("-", "−")


def _mean(row: pd.Series, markup: Markup, digits: int) -> str:
    if pd.isna(row["mean"]):
        return ""
    text = f"{row['mean']:.{digits}f}" + ("" if pd.isna(row["sd"]) else f" ± {row['sd']:.{digits}f}")
    if row["task"] != AVERAGE and row.get("unlearned"):
        text += f" {UNLEARNED}" + ("" if row["unlearned"] == row["n"] else f" {row['unlearned']} of {row['n']}")
    text = markup.escape(text)
    return text if pd.isna(row["place"]) else markup.places[row["place"]].format(text)


def _range(values: pd.Series, form: Callable[[int], str]) -> str:
    known = sorted({int(value) for value in values.dropna()})
    return " to ".join(form(value) for value in dict.fromkeys((known[0], known[-1]))) if known else ""


def print_table(console: Console, table: TextTable) -> None:
    """Print a table of TERMINAL markup."""
    shown = Table()
    for heading, align in zip(table.header, table.align, strict=True):
        is_number = align == "r"
        shown.add_column(heading, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for index, row in enumerate(table.rows):
        if index in table.groups:
            shown.add_section()
        shown.add_row(*row)
    console.print(shown)


def to_markdown(table: TextTable) -> str:
    """Return a table of MARKDOWN markup."""
    align = ["left" if letter == "l" else "right" for letter in table.align]
    return table.to_frame().to_markdown(index=False, disable_numparse=True, colalign=align if table.rows else None)


def to_latex(table: TextTable) -> str:
    """Return a table of TEX markup with booktabs' rules."""
    return table.to_frame().to_latex(index=False, escape=False, column_format=table.align)


def to_html(table: TextTable) -> str:
    """Return a table of HTML markup, a fragment without styles."""
    return table.to_frame().to_html(index=False, escape=False, border=0)


def write_tables(folder: Path, summary: pd.DataFrame, remarks: Sequence[str] = ()) -> list[Path]:
    """Write `table.csv`, `table.md`, `table.tex` and `table.html` and return their paths.

    The first holds the summary's plain numbers; the others hold tables for readers, with `remarks` below them.
    """

    def page(markup: Markup, render: Callable[[TextTable], str], paragraph: str, second: str) -> str:
        tables = [means(summary, markup), costs(summary, markup), differences(summary, markup)]
        legend = [LEGEND.format(second=second), *([UNLEARNED_LEGEND] if summary["unlearned"].any() else [])]
        return join_page(tables, [*legend, *remarks], markup, render, paragraph)

    texts = {
        "csv": summary.to_csv(index=False, lineterminator="\n"),
        "md": page(MARKDOWN, to_markdown, "{}", "italic"),
        "tex": "% needs \\usepackage{booktabs}\n" + page(TEX, to_latex, "\\par {}", "underlined"),
        "html": page(HTML, to_html, "<p>{}</p>", "underlined"),
    }
    paths = [folder / f"table.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def join_page(
    tables: Sequence[TextTable],
    lines: Sequence[str],
    markup: Markup,
    render: Callable[[TextTable], str],
    paragraph: str = "{}",
) -> str:
    """Return the tables that have rows, followed by the lines, escaped, as one paragraph each."""
    parts = [render(table).strip("\n") for table in tables if table.rows]
    return "\n\n".join([*parts, *(paragraph.format(markup.escape(line)) for line in lines)]) + "\n"
