"""`qvtune reproduce`."""

import argparse
from typing import Any

from qvtune.cli.sweep import add_run_options, run_options


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "reproduce",
        help="an experiment of the paper, beside its published numbers",
        usage="qvtune reproduce EXPERIMENT --out DIR [--tasks TASKS] [--rows ROWS] [option of train ...]",
        description="Run table1, figure1, figure2 or table2 of the paper with its own hyperparameters, and set the "
        "results beside the published ones. Options of train that are given replace the paper's, and the output says "
        "so.",
        epilog="Example: qvtune reproduce table2 --model pkg:minilm --glue-dir glue --tasks rte,mrpc --rows lora,full "
        "--seeds 3 --epochs 2 --max-train-samples 500 --out reproductions/table2",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="table1, figure1, figure2 or table2.")
    parser.add_argument(
        "--preset-model", metavar="FAMILY", help="Whose hyperparameters: roberta or llama, where the paper has both."
    )
    parser.add_argument("--tasks", metavar="TASKS", help="Tasks of the experiment, parted by commas; else all.")
    parser.add_argument(
        "--rows", metavar="ROWS", help="Rows, parted by commas, as in 'lora qv,full' or 'rank=8 lr_ratio=4'; else all."
    )
    parser.add_argument("--seeds", default="1", metavar="SEEDS", help="How many or which, as in 1,5,7. (default: 1)")
    parser.add_argument("--list", action="store_true", help="Print the rows and tasks, and end.")
    add_run_options(parser, "YAML file with options of train in place of the paper's.")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Train the missing runs, and print the table."""
    from rich.console import Console

    from qvtune.cli.lab import check_ended, show_estimate, show_failures
    from qvtune.lab.formats import TERMINAL, costs, print_table
    from qvtune.lab.presets import find_preset, row_name
    from qvtune.lab.reproduce import beside, explain, plan_reproduction, run_reproduction
    from qvtune.lab.store import Store
    from qvtune.report.page import write_report
    from qvtune.training.quiet import quiet_libraries

    console = Console()
    if args.list:
        preset = find_preset(args.experiment, args.preset_model)
        console.out(f"{preset.title}; {preset.model}; tasks {', '.join(preset.tasks)}", highlight=False)
        for row in preset.rows:
            console.out(row_name(row), highlight=False)
        return
    options, execution, out = run_options(args)
    plan = plan_reproduction(
        args.experiment,
        out=out,
        family=args.preset_model,
        tasks=args.tasks,
        rows=args.rows,
        seeds=args.seeds,
        options=options,
    )
    store = Store(out)
    quiet_libraries()
    if args.dry_run:
        show_estimate(store, list(plan.cells), execution)
        return
    table = run_reproduction(plan, store, execution)
    write_report(store.path)
    print_table(console, beside(table, TERMINAL))
    print_table(console, costs(table, TERMINAL))
    for line in explain(plan, table):
        console.out(line, highlight=False)
    show_failures(console, store.outcomes())
    console.out(f"Tables: {store.path / 'table'}.csv and .md; page: {store.report}", highlight=False)
    check_ended(store, plan.cells)
