"""`qvtune schema`."""

import argparse
import json
from typing import Any


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "schema",
        help="print the JSON Schema of configuration files",
        description="Print the JSON Schema of the YAML files that --config reads. Editors complete and check a file by "
        "it.",
        epilog="Example: qvtune schema > qvtune.schema.json",
    )
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Print it."""
    from qvtune.training.schema import config_schema

    print(json.dumps(config_schema(), indent=2, ensure_ascii=False))
