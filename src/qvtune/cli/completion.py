"""`qvtune completion`."""

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "fish")
# What stands for a file or a folder in the help; a model or data may be a name too.
FILES = ("PATH", "FILE", "DIR", "RUN")
ALSO_FILES = ("model", "data")


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "completion",
        help="print what lets a shell complete qvtune's commands and options",
        description="Print a script by which bash, zsh or fish completes the commands, options and choices of qvtune.",
        epilog="bash: qvtune completion bash > ~/.local/share/bash-completion/completions/qvtune. "
        "zsh: the same as _qvtune in a folder of $fpath. fish: ~/.config/fish/completions/qvtune.fish.",
    )
    parser.add_argument("shell", choices=SHELLS, help="The shell.")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Print the script."""
    import shtab

    from qvtune.cli.main import build_parser

    parser = build_parser()
    _say_values(parser, shtab.FILE)
    print(shtab.complete(parser, args.shell))


def _say_values(parser: argparse.ArgumentParser, files: Any) -> None:
    """Tell shtab which values the options of a parser and its commands take: pydantic checks them, and not argparse."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _say_values(command, files)
            continue
        shown = action.metavar if isinstance(action.metavar, str) else ""
        if action.choices is None and shown.startswith("{"):
            action.choices = shown.strip("{}").split(",")
        if shown in FILES or action.dest in ALSO_FILES:
            action.complete = files  # type: ignore[attr-defined]
