"""`qvtune report`."""

import argparse
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "report",
        help="draw the pictures and the page of a run or a sweep again",
        description="Make report.html and the pictures of a run, a sweep, a comparison or a reproduction from its "
        "folder alone, also while it is unfinished.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="Folder of a run, or of many.")
    parser.add_argument(
        "--target",
        type=float,
        default=None,
        metavar="X",
        help="Of many runs: draw the steps and seconds to this metric; to what λ = 1 reaches when left out.",
    )
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Write the report and say where it is."""
    from qvtune.report.page import write_report

    for path in write_report(args.folder, target=args.target):
        print(f"Wrote {path}")
