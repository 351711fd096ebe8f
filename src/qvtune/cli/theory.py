"""`qvtune theory`: the paper's theorems, computed on real models; one sub-verb per file."""

import importlib
from typing import Any

from qvtune.cli.parser import Parser

VERBS = ("bound", "scaling")


def add_command(commands: Any) -> None:
    """Add the verb and its sub-verbs to the command line."""
    parser = commands.add_parser(
        "theory",
        help="compute what the paper's theorems say of a model",
        description="Compute what the paper's theorems say of a model.",
    )
    parts = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for verb in VERBS:
        importlib.import_module(f"qvtune.cli.theory_{verb}").add_command(parts)
