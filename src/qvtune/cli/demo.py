"""`qvtune demo`."""

import argparse
from pathlib import Path
from typing import Any

from qvtune.training.config import TrainConfig, make_config

# MiniLM on Rotten Tomatoes: 7,677 training sentences, 853 held out.
DEMO = {
    "model": "pkg:minilm",
    "data": "pkg:rotten_tomatoes",
    "roles": "qv",
    "epochs": 1,
    "eval_steps": 80,
}


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "demo",
        help="train a packaged model on packaged data, with no network",
        description="Train MiniLM on Rotten Tomatoes' film reviews, with roles qv and λ = 4. Needs the extra 'demo'.",
    )
    out = TrainConfig.model_fields["out"].description
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help=f"{out} (runs/demo)")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Run the demo."""
    config = make_config({**DEMO, "out": args.out})
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    from qvtune.cli.output import train_and_show

    train_and_show(config)
