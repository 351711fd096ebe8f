"""`qvtune completion`."""

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "fish")


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "completion",
        help="print what lets a shell complete qvtune's commands and options",
        description="Print a script by which bash, zsh or fish completes the commands and options of qvtune.",
        epilog="bash: qvtune completion bash > ~/.local/share/bash-completion/completions/qvtune. "
        "zsh: the same as _qvtune in a folder of $fpath. fish: ~/.config/fish/completions/qvtune.fish.",
    )
    parser.add_argument("shell", choices=SHELLS, help="The shell.")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Print the script."""
    import shtab

    from qvtune.cli.main import build_parser

    print(shtab.complete(build_parser(), args.shell))
