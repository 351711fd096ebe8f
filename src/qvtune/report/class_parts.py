"""Parts of a run's page that show its predictions: a table of classes, the confusion matrix, the worst mistakes."""

from typing import Any

from qvtune.amounts import count
from qvtune.report.document import Entry, Matrix, Table
from qvtune.tasks.classes import frequent_confusions
from qvtune.tasks.mistakes import cut_text

# More rows and columns are unreadable; those with the most mistakes are shown.
MOST_CLASSES = 60
# From this many classes on, a list shows better than the matrix where most mistakes are.
LISTED_FROM, LISTED = 8, 10
SHOWN_MISTAKES, SHOWN_TEXT = 20, 280
# Which mistakes are the worst, by the number that measures them.
WORST = {"error": "furthest from their number", "probability": "in which the model is surest of a wrong class"}


def class_parts(result: dict[str, Any]) -> list[Table | Matrix]:
    """Return the table of classes, and the confusion matrix where an example has one class; nothing for other runs.

    Args:
        result: contents of `result.json`.
    """
    classes, confusion = result.get("classes"), result.get("confusion")
    if not classes:
        return []
    parts: list[Table | Matrix] = [_class_table(classes, result["reported_on"])]
    if not confusion:
        return parts
    parts.append(_matrix(classes, confusion))
    frequent = frequent_confusions(confusion, LISTED) if len(classes) >= LISTED_FROM else []
    return parts + ([_confusions(classes, frequent)] if frequent else [])


def _class_table(classes: list[dict[str, Any]], splits: list[str]) -> Table:
    rows = [
        [
            Entry(entry["label"]),
            _share(entry["precision"], entry["predicted"]),
            _share(entry["recall"], entry["support"]),
            _share(entry["f1"], entry["support"] + entry["predicted"]),
            Entry(f"{entry['support']:,}", entry["support"]),
            Entry(f"{entry['predicted']:,}", entry["predicted"]),
            *([Entry(f"{entry['threshold']:.3f}", entry["threshold"])] if "threshold" in entry else []),
        ]
        for entry in classes
    ]
    where = " and ".join(splits) + (" together" if len(splits) > 1 else "")
    text = (
        f"On {where}. Support counts the examples with the label, called those that the model gave it to; empty where "
    )
    text += "there is nothing to divide by."
    columns = ["class", "precision", "recall", "F1", "support", "called"]
    if "threshold" in classes[0]:
        columns.append("threshold")
        text += " A label is called from its threshold on, a probability that was fitted on the tuning set."
    return Table("Classes", columns, rows, sortable=True, text=text, named=True)


def _share(value: float, of: int) -> Entry:
    return Entry(f"{value:.3f}", value) if of else Entry("")


def _matrix(classes: list[dict[str, Any]], confusion: list[list[int]]) -> Matrix:
    text = "Rows are labels, columns what the model called them. The colour of a cell is its share of the row: blue on "
    text += "the diagonal is right, orange is wrong."
    shown = list(range(len(classes)))
    if len(classes) > MOST_CLASSES:
        wrong = [sum(row) + sum(r[i] for r in confusion) - 2 * row[i] for i, row in enumerate(confusion)]
        shown = sorted(sorted(shown, key=lambda i: -wrong[i])[:MOST_CLASSES])
        text += f" The {MOST_CLASSES} classes with the most mistakes; {len(classes) - MOST_CLASSES} left out."
    labels = [classes[i]["label"] for i in shown]
    return Matrix("Confusion matrix", labels, [[confusion[i][j] for j in shown] for i in shown], text)


def _confusions(classes: list[dict[str, Any]], frequent: list[tuple[int, int, int]]) -> Table:
    rows = [
        [
            Entry(classes[i]["label"]),
            Entry(classes[j]["label"]),
            Entry(f"{number:,}", number),
            Entry(f"{number / classes[i]['support']:.0%}", number / classes[i]["support"]),
        ]
        for i, j, number in frequent
    ]
    return Table("Most frequent confusions", ["label", "called", "examples", "of the label"], rows)


def mistakes_table(mistakes: list[dict[str, Any]]) -> list[Table]:
    """Return a table of the worst mistakes; nothing if there are none.

    Args:
        mistakes: lines of `mistakes.jsonl`.
    """
    if not mistakes:
        return []
    shown = mistakes[:SHOWN_MISTAKES]
    numbers = [name for name, value in shown[0].items() if isinstance(value, float)]
    words = ("text", "text_pair", "split", "label", "prediction")
    names = [name for name in words if name in shown[0] and name not in numbers]
    rows = [
        [
            *(Entry(cut_text(mistake[name], SHOWN_TEXT)) for name in names),
            *(Entry(f"{mistake[name]:.3f}", mistake[name]) for name in numbers),
        ]
        for mistake in shown
    ]
    headings = {"text_pair": "second text", "split": "set", "label_probability": "of the label"}
    why = next((WORST[name] for name in numbers if name in WORST), "with the largest loss")
    text = f"The {count(len(shown), 'example')} {why}; mistakes.jsonl in the run folder has {len(mistakes)}."
    columns = [headings.get(name, name) for name in (*names, *numbers)]
    return [Table("Worst mistakes", columns, rows, text=text, stacked=True)]
