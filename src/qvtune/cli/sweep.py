"""`qvtune sweep`."""

import argparse
from pathlib import Path
from typing import Any

from qvtune.cli.parser import add_options, add_words, given, given_words
from qvtune.lab.execution import Execution
from qvtune.options import parse_options
from qvtune.training.config import TrainConfig, read_config

# Keys that a YAML file may have beside the options of train.
AXES, RUNS = "axes", "runs"


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "sweep",
        help="train every run of a grid",
        usage="qvtune sweep --axis OPTION=VALUE,VALUE [--axis ...] --out DIR [option of train ...]",
        description="Train every combination of the values of one or more options. The same command again finds what "
        "was trained, goes on with what was not, and with more values trains the new ones alone.",
        epilog="Example: qvtune sweep --model pkg:minilm --data reviews.csv --axis lr=1e-4,4e-4 --axis lr_ratio=1,4 "
        "--head-lr 1e-3 --out sweeps/rates",
    )
    parser.add_argument(
        "--axis",
        action="append",
        default=[],
        metavar="OPTION=VALUES",
        help="An option of train and its values, as in lr=1e-4,4e-4; values with commas are parted by semicolons.",
    )
    add_run_options(parser, "YAML file with any of these options, and axes or a list of runs.")
    parser.set_defaults(execute=execute)


def add_run_options(parser: argparse.ArgumentParser, config_help: str) -> None:
    """Add the options of every command that trains many runs."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    parser.add_argument("--dry-run", action="store_true", help="Say how many runs there are and what they would take.")
    add_options(parser, Execution)
    add_options(parser, TrainConfig)
    add_words(parser)


def execute(args: argparse.Namespace) -> None:
    """Train the missing runs, and print the results."""
    from qvtune.cli.lab import check_ended, show_estimate, show_results
    from qvtune.lab.axes import parse_axes, read_axes
    from qvtune.lab.store import Store
    from qvtune.lab.sweep import sweep, sweep_cells
    from qvtune.training.quiet import quiet_libraries

    options, execution, out = run_options(args, also=(AXES, RUNS))
    axes: Any = parse_axes(args.axis)
    from_file = options.pop(AXES, None)
    listed = options.pop(RUNS, None)
    if from_file is not None:
        axes = read_axes(from_file, args.config) | axes
    if listed is not None:
        axes = list_of_runs(listed, args.config, axes)
    store = Store(out)
    cells = sweep_cells(store, options, axes)
    quiet_libraries()
    if args.dry_run:
        show_estimate(store, cells, execution)
        return
    results = sweep(options, axes, out=out, execution=execution)
    show_results(store, results.table)
    check_ended(store, cells)


def run_options(args: argparse.Namespace, also: tuple[str, ...] = ()) -> tuple[dict[str, Any], Execution, Path]:
    """Return the options of train from the command line or the file, the execution, and the folder.

    Raises:
        ConfigError: for a file that cannot be read, an execution that makes no sense, or no folder.
    """
    from qvtune.errors import ConfigError

    options = read_config(args.config, also) if args.config else {}
    options |= given(args, TrainConfig) | given_words(args)
    execution = parse_options(Execution, given(args, Execution))
    out = options.pop("out", None)
    if out is None:
        raise ConfigError("--out is required.")
    return options, execution, Path(out)


def list_of_runs(value: Any, file: Path, axes: Any) -> list[dict[str, Any]]:
    """Return the value of "runs" in a YAML file.

    Raises:
        ConfigError: if it is not a list of options, or there are axes too.
    """
    from qvtune.errors import ConfigError

    if axes:
        raise ConfigError(f"{file}: has a list of runs, and there are axes too. Give one of them.")
    if not isinstance(value, list) or not all(isinstance(run, dict) for run in value):
        raise ConfigError(f"{file}: runs must be a list, each with its options, as in '- lr: 1e-4'.")
    return value
