"""`qvtune plan`."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from qvtune.cli.parser import add_options, given
from qvtune.training.config import TrainConfig, make_config, read_config


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "plan",
        help="what would train, and what a step costs",
        usage="qvtune plan --model MODEL [option ...]",
        description="Show what would train, parameters by role, memory and operations per step, without loading "
        "weights. It takes the options of train; --data and --out may be left out, and --model may be a config.json.",
    )
    add_options(parser, TrainConfig)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with any of these options.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Plan and print."""
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    from qvtune.cli.output import print_attention, print_cost, print_plan
    from qvtune.training.plan import UNNAMED, plan_without_weights

    values = given(args, TrainConfig)
    named = {*values, *(read_config(args.config) if args.config else {})}
    config = make_config({k: v for k, v in UNNAMED.items() if k not in named} | values, args.config)
    plan = plan_without_weights(config, with_data="data" in named or "task" in named)
    if args.json:
        print(json.dumps(plan.to_dict(), indent=2))
        return
    console = Console()
    print_plan(console, plan)
    print_attention(console, plan.attention)
    print_cost(console, plan, config)
