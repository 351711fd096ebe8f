"""`qvtune suggest`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvtune.cli.parser import add_options, add_words, given, given_words
from qvtune.training.config import TrainConfig, read_config

if TYPE_CHECKING:
    from qvtune.search.suggestion import Suggestion


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "suggest",
        help="find the learning rates",
        usage="qvtune suggest --model MODEL --data DATA [--budget STEPS_OR_PERCENT] [option of train ...]",
        description="Find η_QK, λ and the head's rate by range tests and short trials, judged on held-out training "
        "examples. Rates that are given are kept. The same command again goes on with a search that was stopped.",
        epilog="Example: qvtune suggest --model pkg:minilm --data reviews.csv --budget 25%% --out searches/mine",
    )
    parser.add_argument(
        "--budget",
        metavar="STEPS_OR_PERCENT",
        help="What may be spent: a number of steps, or a part of a full run, as in 25%%. (default: 25%%, and at least "
        "600 steps)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="Write suggestion.json, a page and a picture.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with options of train.")
    add_options(parser, TrainConfig, without=("out",))
    add_words(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Search, and print the result."""
    options = read_config(args.config) if args.config else {}
    options |= given(args, TrainConfig) | given_words(args)
    options.pop("out", None)
    found = find_rates(options, args.budget, args.out, quiet=args.json)
    if args.json:
        print(json.dumps(found.to_dict(), indent=2))


def find_rates(options: dict[str, Any], budget: str | None, out: Path | None, *, quiet: bool = False) -> "Suggestion":
    """Search, print the result unless `quiet`, and write the page if there is a folder for it."""
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from qvtune.report.search_page import SearchReport
    from qvtune.search.suggest import suggest

    found = suggest(options, budget=budget, out=out)
    report = SearchReport(f"{options.get('model')} on {options.get('data') or options.get('task')}", found)
    console = Console(quiet=quiet)
    for sentence in (*report.sentences(), *found.notes):
        console.out(sentence, highlight=False)
    for path in report.write(out) if out is not None else ():
        Console(stderr=quiet).out(f"Wrote {path}", highlight=False)
    return found
