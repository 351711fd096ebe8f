"""Predictions beside their labels, as tables in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qvtune.tasks.classes import frequent_confusions
from qvtune.tasks.mistakes import cut_text

# Up to this many classes, a terminal has room for a confusion matrix.
MOST_COLUMNS = 12
LISTED = 10
LONGEST_TEXT, LONGEST_NAME = 200, 20


def print_classes(console: Console, classes: list[dict[str, Any]], confusion: list[list[int]] | None = None) -> None:
    """Print precision, recall, F1 and support of every class, and the confusion matrix, or its largest entries.

    Args:
        console: where to print.
        classes: as `Task.class_table` returns them.
        confusion: the matrix that belongs to them, if an example has one class.
    """
    thresholds = ["threshold"] if "threshold" in classes[0] else []
    table = _table("class", numbers=("precision", "recall", "F1", "support", "called", *thresholds))
    for entry in classes:
        shares = [f"{entry[name]:.4f}" for name in ("precision", "recall", "f1")]
        counts = [f"{entry[name]:,}" for name in ("support", "predicted")]
        table.add_row(Text(entry["label"]), *shares, *counts, *(f"{entry[name]:.4f}" for name in thresholds))
    console.print(table)
    if confusion is None:
        return
    if len(classes) <= MOST_COLUMNS:
        text = "Confusion matrix: rows are labels, columns what the model called them, by the number of the label."
        console.out(text, highlight=False)
        table = _table("label", numbers=[str(i + 1) for i in range(len(classes))])
        for i, row in enumerate(confusion):
            cells = [Text(f"{n:,}", style="bold" if i == j else "" if n else "dim") for j, n in enumerate(row)]
            table.add_row(Text(f"{i + 1} {cut_text(classes[i]['label'], LONGEST_NAME)}"), *cells)
        console.print(table)
    elif frequent := frequent_confusions(confusion, LISTED):
        console.out("Most frequent confusions; --json has the whole matrix.", highlight=False)
        table = _table("label", "called", numbers=("examples", "of the label"))
        for i, j, n in frequent:
            table.add_row(
                Text(classes[i]["label"]), Text(classes[j]["label"]), f"{n:,}", f"{n / classes[i]['support']:.0%}"
            )
        console.print(table)


def print_mistakes(console: Console, mistakes: list[dict[str, Any]]) -> None:
    """Print the worst mistakes, as `worst_mistakes` returns them."""
    if not mistakes:
        console.out("No mistakes.", highlight=False)
        return
    words = ("label", "prediction", "label_probability")
    numbers = [name for name, value in mistakes[0].items() if isinstance(value, float) and name not in words]
    texts = [name for name in ("split", "text", "text_pair") if name in mistakes[0]]
    table = _table(*(name.replace("_", " ") for name in (*texts, "label", "prediction")), numbers=numbers)
    for mistake in mistakes:
        cells = [Text(cut_text(_shown(mistake[name]), LONGEST_TEXT)) for name in (*texts, "label", "prediction")]
        table.add_row(*cells, *(f"{mistake[name]:.4f}" for name in numbers))
    console.print(table)


def _table(*words: str, numbers: Any) -> Table:
    table = Table()
    for word in words:
        table.add_column(Text(word), overflow="fold")
    for word in numbers:
        table.add_column(Text(word), justify="right", overflow="fold")
    return table


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else " ".join(str(value).split())
