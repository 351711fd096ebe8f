"""`qvtune merge`."""

import argparse
from pathlib import Path
from typing import Any

from qvtune.cli.evaluate import add_run_options, check_paths
from qvtune.cli.push import add_push_options, check_push_options, push


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "merge",
        help="write a plain transformers checkpoint",
        description="Add what a run trained to the weights of its model and save a checkpoint that transformers "
        "loads alone.",
    )
    add_run_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="A new folder.")
    parser.add_argument(
        "--dtype",
        default=None,
        metavar="TYPE",
        help="Type of the weights: float32, bfloat16 or float16; that of the base model's files when left out.",
    )
    add_push_options(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Merge and say where the checkpoint is."""
    check_paths(args)
    check_push_options(args)
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    from qvtune.training.inference import load_run
    from qvtune.training.merging import merge_run

    merge_run(load_run(args.run, model=args.model, device="cpu"), args.out, dtype=args.dtype)
    print(f"Wrote the merged model to {args.out}")
    push(args, args.out)
