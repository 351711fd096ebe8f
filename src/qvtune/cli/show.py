"""`qvtune show`."""

import argparse
from pathlib import Path
from typing import Any

from qvtune.cli.parser import add_options, given, positive
from qvtune.training.config import TrainConfig, make_config, read_config


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "show",
        help="training examples as a model will read them",
        usage="qvtune show --data DATA --model MODEL [option ...]",
        description="Read the data as train does, and show training examples with their special tokens; of "
        "conversations and completions also which tokens are trained. No weights are loaded. It takes the options of "
        "train; --out may be left out.",
    )
    add_options(parser, TrainConfig)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with any of these options.")
    parser.add_argument("--examples", type=positive, default=1, metavar="N", help="How many to show, the first ones.")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Read the data, and print the notes about them and the examples."""
    values = given(args, TrainConfig)
    named = {*values, *(read_config(args.config) if args.config else {})}
    config = make_config(values if "out" in named else {"out": "none"} | values, args.config)
    from qvtune.data.tables import check_table
    from qvtune.training.quiet import quiet_libraries

    check_table(config.data)
    quiet_libraries()
    from qvtune.training.prepare import read_inputs

    inputs = read_inputs(config)
    for note in inputs.notes:
        print(note)
    for row in inputs.train.select(range(min(args.examples, len(inputs.train)))):
        print(f"\n{inputs.data.task.show_tokens(row, inputs.tokenizer)}")
