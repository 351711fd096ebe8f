"""`qvtune compare`."""

import argparse
from typing import Any

from qvtune.cli.sweep import add_run_options, run_options


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "compare",
        help="methods side by side, over tasks and seeds",
        usage="qvtune compare --methods METHODS --tasks TASKS --seeds SEEDS --out DIR [option of train ...]",
        description="Train every method on every task with every seed, and write a table of means, paired tests and "
        "costs. The same command again finds what was trained; with more methods, tasks or seeds it trains the new "
        "runs alone.",
        epilog="Example: qvtune compare --methods 'lora,lora:rank=16+lr_ratio=2,full' --tasks rte,mrpc --seeds 3 "
        "--model pkg:minilm --glue-dir glue --out comparisons/first. Or sets of roles: qvtune compare "
        "--roles-sets qv,gud,all --equal-parameters --axis lr=1e-4,1e-3 ...",
    )
    parser.add_argument(
        "--methods",
        metavar="METHODS",
        help="Methods of train, parted by commas; one may have options of its own, as in lora:rank=16+lr_ratio=2.",
    )
    parser.add_argument("--tasks", metavar="TASKS", help="Tasks of GLUE, parted by commas. Or give --data.")
    parser.add_argument(
        "--seeds", default="3", metavar="SEEDS", help="How many (3 is 0,1,2) or which, as in 1,5,7. (default: 3)"
    )
    parser.add_argument(
        "--baseline", metavar="METHOD", help="The method that the others are tested against; the first when left out."
    )
    parser.add_argument(
        "--roles-sets",
        metavar="SETS",
        help="Sets of roles in place of methods, parted by commas, as in qv,gud,all; --method trains all of them.",
    )
    parser.add_argument(
        "--equal-parameters",
        action="store_true",
        help="With --roles-sets: choose the ranks so that every set trains as many parameters as the first.",
    )
    parser.add_argument(
        "--axis",
        action="append",
        default=[],
        metavar="OPTION=VALUES",
        help="With --roles-sets: rates to try for every set, as in lr=1e-4,1e-3; each set is shown at its best.",
    )
    add_run_options(parser, "YAML file with options of train that all runs share.")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Train the missing runs, and print the table."""
    from rich.console import Console

    from qvtune.cli.lab import check_ended, show_best, show_estimate, show_summary
    from qvtune.lab.axes import parse_axes
    from qvtune.lab.compare import plan_comparison, run_comparison
    from qvtune.lab.store import Store
    from qvtune.training.quiet import quiet_libraries

    options, execution, out = run_options(args)
    comparison = plan_comparison(
        args.methods,
        out=out,
        tasks=args.tasks,
        seeds=args.seeds,
        baseline=args.baseline,
        options=options,
        roles_sets=args.roles_sets,
        equal_parameters=args.equal_parameters,
        axes=parse_axes(args.axis),
    )
    console = Console()
    for note in comparison.notes:
        console.out(note, highlight=False)
    quiet_libraries()
    if args.dry_run:
        show_estimate(Store(out), list(comparison.cells), execution)
        return
    summary = run_comparison(comparison, Store(out), execution)
    show_summary(Store(out), summary, comparison.baseline)
    show_best(console, summary, comparison.sets)
    check_ended(Store(out), comparison.cells)
