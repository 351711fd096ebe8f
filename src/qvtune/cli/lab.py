"""The output of the commands that train many runs."""

from collections.abc import Mapping, Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table

from qvtune.amounts import count, format_seconds
from qvtune.errors import RunError
from qvtune.lab.cells import Cell
from qvtune.lab.execution import Execution
from qvtune.lab.meter import describe
from qvtune.lab.outcome import FINISHED, PENDING, STOPPED, UNLEARNED, Outcome, read_outcome
from qvtune.lab.store import Store

MOST_ROWS = 20
COLUMNS_AFTER = ("status", "metric", "seconds", "trained_parameters")


def show_estimate(store: Store, cells: list[Cell], execution: Execution) -> None:
    """Print how many runs there are, how many are done, and how long the others would take."""
    from qvtune.lab.estimate import estimate
    from qvtune.lab.sweep import missing_cells

    console = Console()
    missing = missing_cells(store, cells, execution)
    done = len(cells) - len(missing)
    console.out(f"{count(len(cells), 'run')}, {done} done, {len(missing)} to train", highlight=False)
    if not missing:
        return
    found = estimate(missing, execution)
    spread = f" of one process; {execution.workers} share it" if execution.workers > 1 else ""
    console.out(
        f"About {format_seconds(found.seconds)}{spread}, {format_seconds(found.run_seconds)} a run, from a few timed "
        f"steps of each of {count(found.kinds, 'kind')}. Nothing was trained.",
        highlight=False,
    )


def show_results(store: Store, table: pd.DataFrame) -> None:
    """Make the report, and print the best runs, the failures, and where everything is."""
    from qvtune.report.page import write_report

    console = Console()
    write_report(store.path)
    ordered = table.sort_values("metric", ascending=False, na_position="last")
    end = list(table.columns).index("status")
    shown = Table()
    columns = [*table.columns[1:end], *COLUMNS_AFTER]
    metrics = table["metric_name"].dropna().unique()
    titles = {"metric": str(metrics[0])} if len(metrics) == 1 else {}
    for name in columns:
        title = titles.get(name, name).replace("_", " ")
        shown.add_column(title, justify="right" if name != "status" else "left")
    for _, row in ordered.head(MOST_ROWS).iterrows():
        mark = f"{UNLEARNED} " if row["learned"] is False else ""
        shown.add_row(*((mark if name == "metric" else "") + _cell(name, row[name]) for name in columns))
    console.print(shown)
    if len(table) > MOST_ROWS:
        console.out(f"The best {MOST_ROWS} of {len(table)} runs.", highlight=False)
    outcomes = store.outcomes()
    show_unlearned(console, outcomes)
    show_failures(console, outcomes)
    show_savings(console, outcomes)
    console.out(f"Results: {store.results}, page: {store.report}", highlight=False)


def show_summary(store: Store, summary: pd.DataFrame, baseline: str) -> None:
    """Print the results of a comparison, the failures, and where the tables are."""
    from qvtune.lab import formats
    from qvtune.report.page import write_report

    write_report(store.path)
    console = Console()
    formats.print_table(console, formats.by_task(summary, formats.TERMINAL))
    console.out(f"The difference is to {baseline}, over the pairs of task and seed.", highlight=False)
    formats.print_table(console, formats.costs(summary, formats.TERMINAL))
    show_unlearned(console, store.outcomes())
    show_failures(console, store.outcomes())
    console.out(f"Tables: {store.path / 'table'}.csv, .md, .tex and .html; page: {store.report}", highlight=False)


def show_best(console: Console, summary: pd.DataFrame, sets: Mapping[str, Sequence[str]]) -> None:
    """Print every set of roles at its best rates; nothing if none were compared."""
    from qvtune.lab.roles_sets import best_of_sets

    if not sets:
        return
    shown = Table()
    for name in ("roles", "best", "metric", "sd", "parameters", "seconds"):
        shown.add_column(name, justify="left" if name in ("roles", "best") else "right")
    for _, row in best_of_sets(summary, sets).iterrows():
        if pd.isna(row["method"]):
            shown.add_row(row["roles"], "no result", *[""] * 4)
            continue
        numbers = (f"{row['mean']:.4f}", _cell("sd", row["sd"]), f"{int(row['adapter_parameters']):,}")
        shown.add_row(row["roles"], row["method"], *numbers, format_seconds(float(row["seconds"])))
    console.print(shown)
    console.out("Each set at its best rates, chosen by the same metric: best.csv and best.md.", highlight=False)


def check_ended(store: Store, cells: Sequence[Cell]) -> None:
    """Check that every run has ended, even if by a failure.

    Raises:
        RunError: if the processes of some died.
    """
    ends = [read_outcome(store.run_folder(cell.name), cell.labels) for cell in cells]
    pending = [describe(outcome.labels) for outcome in ends if outcome.status == PENDING]
    if pending:
        raise RunError(
            f"{store.path}: {count(len(pending), 'run')} did not end, since the process died: {_first_of(pending)}. "
            "The same command again goes on where they were."
        )


def show_failures(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print the runs without a result, grouped by reason."""
    alike: dict[tuple[str, str | None], list[str]] = {}
    for outcome in outcomes:
        if outcome.status != FINISHED:
            alike.setdefault((outcome.status, outcome.reason), []).append(describe(outcome.labels))
    for (status, reason), runs in alike.items():
        console.out(f"{_first_of(runs)}: {status}{f', {reason}' if reason else ''}", highlight=False)


def _first_of(runs: Sequence[str]) -> str:
    return runs[0] + (f" and {len(runs) - 1} more" if runs[1:] else "")


def show_unlearned(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print how many finished runs learned nothing, and where to read more."""
    unlearned = [outcome for outcome in outcomes if outcome.learned is False]
    if unlearned:
        console.out(
            f"{count(len(unlearned), 'run')} learned nothing ({UNLEARNED}), as {describe(unlearned[0].labels)}: "
            f"{unlearned[0].folder.result} says what was seen and which option to change.",
            highlight=False,
        )


def show_savings(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print how long the runs that were stopped early took, and how long full runs would have taken."""
    stopped = [outcome.result for outcome in outcomes if outcome.status == STOPPED]
    if stopped:
        taken = sum(result["seconds"] for result in stopped)
        whole = sum(result["seconds"] / result["part"] for result in stopped)
        console.out(
            f"{count(len(stopped), 'run')} stopped early after {format_seconds(taken)} of training, which would have "
            f"taken about {format_seconds(whole)} to the end.",
            highlight=False,
        )


def _cell(name: str, value: object) -> str:
    if value is None or value != value:
        return "-"
    if name == "metric":
        return f"{value:.4f}"
    if name == "seconds":
        return format_seconds(float(str(value)))
    if isinstance(value, float):
        return f"{int(value):,}" if name.endswith("parameters") else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and name.endswith("parameters") else str(value)
