"""`qvtune theory scaling`."""

import argparse
import json
from pathlib import Path
from typing import Any

from qvtune.cli.parser import add_options, given
from qvtune.theory.options import ScalingOptions


def add_command(commands: Any) -> None:
    """Add the sub-verb to the command line."""
    parser = commands.add_parser(
        "scaling",
        help="Theorem 2: how a step's change grows with the width",
        usage="qvtune theory scaling [--out DIR] [option ...]",
        description="Measure how a step's change of attention's output grows with the width, through query and key, "
        "through the value and through both, on a toy layer for nine pairs of rates and on real blocks, and print the "
        "fitted exponents.",
        epilog="Example: qvtune theory scaling --out theory/scaling",
    )
    add_options(parser, ScalingOptions)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="Write scaling.json, scaling.csv, table.md, a page and pictures."
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Measure, print and write."""
    from qvtune.options import parse_options

    options = parse_options(ScalingOptions, given(args, ScalingOptions))
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from qvtune.lab.formats import print_table
    from qvtune.report.scaling_page import RECORD, write_scaling
    from qvtune.report.scaling_tables import brief_tables, headline
    from qvtune.theory.scaling import scaling_experiment
    from qvtune.training.folder import check_free

    if args.out is not None:
        check_free(args.out, RECORD)
    result = scaling_experiment(options.model_dump())
    page = None if args.out is None else write_scaling(result, args.out)
    data, console = result.to_dict(), Console()
    if args.json:
        print(json.dumps(data, indent=2))
        return
    for titled in brief_tables(data):
        console.print(f"\n{titled.title}\n{titled.text}", highlight=False, markup=False)
        print_table(console, titled.table)
    for sentence in headline(data):
        console.print(sentence, highlight=False, markup=False)
    if page is not None:
        console.out(f"Exponents: {args.out / 'scaling.json'}, page: {page}", highlight=False)
