"""`qvtune train`."""

import argparse
from pathlib import Path
from typing import Any

from qvtune.cli.auto import find_auto
from qvtune.cli.parser import add_options, add_words, given, given_words
from qvtune.cli.push import add_push_options, check_push_options, push
from qvtune.errors import ConfigError
from qvtune.training.config import TrainConfig, make_config


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "train",
        help="train query and value, each at its own rate",
        usage="qvtune train --model MODEL --data DATA --out DIR [option ...]",
        description="Train a model on labelled text. The same command again goes on with a run that was stopped. "
        "--lr, --lr-ratio and --head-lr may be auto: they are searched for before the run, as 'qvtune suggest' does.",
        epilog="Example: qvtune train --model pkg:minilm --data reviews.csv --lr 4e-4 --lr-ratio 4 --out runs/mine",
    )
    add_options(parser, TrainConfig)
    add_words(parser)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with any of these options.")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="Go on with the run in this folder.")
    parser.add_argument(
        "--budget",
        metavar="STEPS_OR_PERCENT",
        help="What the search for rates that are auto may spend: steps, or a part of the run, as in 25%%.",
    )
    add_push_options(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Train and print the result."""
    config = _config(args)
    _check_paths(config)
    check_push_options(args)
    if args.push_to_hub is not None:
        from qvtune.training.sharing import check_base

        check_base(config)
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    from qvtune.cli.output import train_and_show
    from qvtune.training.environment import is_main_process

    train_and_show(config)
    if is_main_process():
        push(args, config.out)


def _check_paths(config: TrainConfig) -> None:
    """Refuse a folder or a file before the libraries are imported, which takes seconds."""
    from qvtune.data.tables import check_table
    from qvtune.training.folder import RunFolder

    RunFolder(config.out).claim(config)
    for data in (config.data, config.validation):
        if data is not None:
            check_table(data)


def _config(args: argparse.Namespace) -> TrainConfig:
    values = given(args, TrainConfig) | given_words(args)
    if args.resume is None:
        return make_config(find_auto(values, args.config, args.budget), args.config)
    if values or args.config or args.budget:
        raise ConfigError("--resume takes every option from the run folder. Give it alone.")
    from qvtune.training.folder import RunFolder

    return RunFolder(args.resume).read_config().model_copy(update={"out": args.resume})
