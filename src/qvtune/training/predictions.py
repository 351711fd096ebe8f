"""Predictions as the text of a JSONL or CSV file, and the cells that a spreadsheet would run as formulas."""

import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any

from qvtune.data.columns import NUMBER
from qvtune.data.tables import read_table

# Characters that start a formula in a spreadsheet.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def count_formulas(path: Path) -> int:
    """Count the cells of a CSV file that a spreadsheet would run as formulas, not counting numbers."""
    table = read_table(path)
    return sum(map(_is_formula, itertools.chain(table.columns, *table.rows)))


def _is_formula(cell: Any) -> bool:
    return isinstance(cell, str) and cell.startswith(FORMULA_STARTS) and not NUMBER.fullmatch(cell)


def format_predictions(
    predicted: list[dict[str, Any]], inputs: dict[str, list[Any]], suffix: str, spreadsheet_safe: bool
) -> str:
    """Return predictions as the text of a file, beside the input columns whose names differ.

    Args:
        predicted: what `Task.predictions` returned.
        inputs: cells by column.
        suffix: ".jsonl" or ".csv".
        spreadsheet_safe: put an apostrophe before cells of a CSV file that a spreadsheet would compute.
    """
    if suffix == ".csv":
        predicted = [_flat(values) for values in predicted]
    kept = [name for name in inputs if name not in predicted[0]]
    rows = [{name: inputs[name][i] for name in kept} | values for i, values in enumerate(predicted)]
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    text = io.StringIO(newline="")
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    if spreadsheet_safe:
        table = [[f"'{cell}" if _is_formula(cell) else cell for cell in cells] for cells in table]
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue()


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    probabilities = values.pop("probabilities", {})
    joined = {name: _cell(value) for name, value in values.items() if isinstance(value, list)}
    return values | joined | {f"probability_{name}": value for name, value in probabilities.items()}


def _cell(values: list[Any]) -> str:
    """Return a list as the cell of a CSV file: names with a semicolon between, or JSON for anything else."""
    is_names = all(isinstance(value, str) and ";" not in value for value in values)
    return ";".join(values) if is_names else json.dumps(values, ensure_ascii=False)
