"""`qvtune env`."""

import argparse
import json
from collections.abc import Iterator
from typing import Any


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "env",
        help="print what a bug report needs",
        description="Print the versions of the libraries, the processor and its instructions, the kernels and the "
        "devices. Nothing else: no paths, and no names of people or machines.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Print it."""
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    from qvtune.training.environment import describe_environment

    found = describe_environment()
    if args.json:
        print(json.dumps(found, indent=2))
        return
    lines = list(_lines(found))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:{width}}  {value}")


def _lines(found: dict[str, Any], start: str = "") -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        words = f"{start}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from _lines(value, "" if name == "versions" else f"{words}: ")
        elif isinstance(value, list):
            yield words, " ".join(value) or "none"
        else:
            yield words, {None: "none", True: "yes", False: "no"}.get(value, str(value))
