"""`qvtune download`."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "download",
        help="fetch and check GLUE",
        description="Fetch GLUE's tasks in the benchmark's own layout, and check that every file reads and has its "
        "published number of rows. Files that are there are checked and not fetched again.",
    )
    parser.add_argument("--glue-dir", type=Path, required=True, metavar="DIR", help="Folder for the tasks' folders.")
    parser.add_argument(
        "--task",
        action="append",
        default=None,
        metavar="TASK",
        help="A task; give it several times. All when left out.",
    )
    parser.add_argument(
        "--source", default=None, metavar="URL", help="Where to fetch from, for a mirror of the benchmark's server."
    )
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Fetch and check the data, and print the findings."""
    from qvtune.data.download import SOURCE, check_task, fetch_task
    from qvtune.data.glue import GLUE, glue_task

    console = Console()
    names = args.task or list(GLUE)
    for name in names:
        glue_task(name)
    for name in names:
        fetched = fetch_task(name, args.glue_dir, args.source or SOURCE, Console(stderr=True))
        for line in check_task(name, args.glue_dir):
            console.out(f"{'fetched' if fetched else 'found'} {line}", highlight=False)
