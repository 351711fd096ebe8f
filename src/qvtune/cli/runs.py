"""`qvtune runs`."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qvtune.errors import ConfigError


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "runs",
        help="list runs, and compare them",
        description="List the runs in and below folders, of sweeps and comparisons too, or set some side by side.",
        epilog="Example: qvtune runs runs --filter method=lora --filter 'lr>=1e-4' --sort -metric",
    )
    parser.add_argument("paths", type=Path, nargs="*", metavar="PATH", help="Folders of runs.")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="Keep runs with this value in a column, option, metric or label; with >, <, >= and <= for numbers. All "
        "of several must hold.",
    )
    parser.add_argument("--sort", default=None, metavar="COLUMN", help="Sort by this; -COLUMN for the highest first.")
    parser.add_argument("--columns", default=None, metavar="LIST", help="Columns to show, as in path,rank,metric.")
    parser.add_argument(
        "--compare",
        nargs="+",
        default=None,
        metavar="RUN",
        help="Show the options and metrics in which these runs differ: run folders, or names of runs in PATH.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="Print JSON, with every column.")
    form.add_argument("--csv", action="store_true", help="Print CSV.")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Print the runs."""
    from qvtune.report.listing import COLUMNS, compare_rows, find_row, known_column, list_runs, parse_filter, sort_rows

    if not args.paths and not args.compare:
        raise ConfigError("PATH is required: give a folder of runs.")
    rows = list_runs(args.paths)
    if args.compare:
        if args.filter or args.sort or args.columns:
            raise ConfigError("--compare shows the runs that it names. Leave out --filter, --sort and --columns.")
        if len(args.compare) < 2:
            raise ConfigError("--compare needs two runs or more.")
        chosen = [find_row(rows, name) for name in args.compare]
        _print(compare_rows(chosen), ["what", *(row["path"] for row in chosen)], args, "The runs do not differ.")
        return
    for wanted in [parse_filter(text, rows) for text in args.filter]:
        rows = [row for row in rows if wanted.holds(row)]
    if args.sort:
        column = known_column(args.sort.removeprefix("-"), rows, "--sort")
        rows = sort_rows(rows, column, descending=args.sort.startswith("-"))
    if args.columns:
        columns = [known_column(name.strip(), rows, "--columns") for name in args.columns.split(",")]
    else:
        columns = [
            name for name in COLUMNS if name in ("path", "status") or any(row.get(name) is not None for row in rows)
        ]
    if args.json and not args.columns:
        columns = list(dict.fromkeys(name for row in rows for name in row))
    _print(rows, columns, args, "No runs.")


def _print(rows: Sequence[dict[str, Any]], columns: Sequence[str], args: argparse.Namespace, empty: str) -> None:
    from qvtune.lab.outcome import PENDING
    from qvtune.report.listing import plain_text

    if args.json:
        print(json.dumps([{name: row.get(name) for name in columns} for row in rows], indent=2, ensure_ascii=False))
    elif args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if row.get(name) is None else row[name] for name in columns] for row in rows])
    elif not rows:
        print(empty)
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for name in columns:
            numeric = all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
            table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            steps = f", saved at step {row['steps']}" if row.get("status") == PENDING and row.get("steps") else ""
            table.add_row(*(Text(plain_text(row.get(name)) + (steps if name == "status" else "")) for name in columns))
        # Output to a pipe has no width limit.
        Console(width=None if sys.stdout.isatty() else 10_000).print(table)
