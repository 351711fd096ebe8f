"""`qvtune evaluate`."""

import argparse
from pathlib import Path
from typing import Any

from qvtune.cli.parser import positive
from qvtune.training.config import TrainConfig


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a finished run."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="Folder of a finished run.")
    parser.add_argument(
        "--model", default=None, metavar="TEXT", help="Where the base model is now, if it has moved since training."
    )


def check_paths(args: argparse.Namespace) -> None:
    """Refuse a missing run or file before the libraries are imported, which takes seconds."""
    from qvtune.data.tables import check_table
    from qvtune.training.folder import RunFolder

    RunFolder(args.run).read_finished()
    if getattr(args, "data", None):
        check_table(args.data)


def add_text_column(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the text columns of a file."""
    parser.add_argument(
        "--text-column",
        action="append",
        default=None,
        metavar="NAME",
        help="Column of the file with the text, where it has another name than in training; twice for two texts.",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option for the device."""
    help = f"{TrainConfig.model_fields['device'].description} (default: auto)"
    parser.add_argument("--device", default="auto", metavar="{auto,cpu,cuda,mps}", help=help)


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a run",
        description="Measure a finished run on its own evaluation set, or on a labelled file.",
    )
    add_run_options(parser)
    parser.add_argument(
        "--data",
        default=None,
        metavar="TEXT",
        help="A labelled file, or glue/TASK with the classes of the run; the run's own data otherwise.",
    )
    add_text_column(parser)
    parser.add_argument(
        "--label-column",
        action="append",
        default=None,
        metavar="NAME",
        help="Column of the file with the label, where it has another name than in training; give it several times "
        "for several columns.",
    )
    parser.add_argument("--glue-dir", type=Path, default=None, metavar="PATH", help="Where GLUE is, if it has moved.")
    parser.add_argument("--batch-size", type=positive, default=None, metavar="N", help="Examples per forward pass.")
    add_device(parser)
    parser.add_argument(
        "--mistakes",
        type=positive,
        default=0,
        metavar="N",
        help="Show the N worst mistakes, in which the model is surest of a wrong class or furthest from a number.",
    )
    parser.add_argument(
        "--generate-samples",
        type=positive,
        default=None,
        metavar="N",
        help="For a run that writes: let the model answer the first N examples of each set, and report the share of "
        "right answers; as many as in the run when left out.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Evaluate, and print the metrics, also class by class, and the warnings."""
    check_paths(args)
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from qvtune.cli.output import print_metrics
    from qvtune.cli.predictions import print_classes, print_mistakes
    from qvtune.files import format_json
    from qvtune.training.inference import evaluate_run, load_run

    run = load_run(args.run, model=args.model, device=args.device)
    result = evaluate_run(
        run,
        data=args.data,
        glue_dir=args.glue_dir,
        text_columns=args.text_column,
        label_column=args.label_column,
        batch_size=args.batch_size,
        mistakes=args.mistakes,
        generate_samples=args.generate_samples,
    )
    if args.json:
        print(format_json(result))
    else:
        examples = ", ".join(f"{split}: {count:,} examples" for split, count in result["examples"].items())
        for note in result["notes"]:
            print(note)
        console = Console()
        print_metrics(console, result["metrics"], f"{result['data']}, {examples}")
        if "classes" in result:
            print_classes(console, result["classes"], result.get("confusion"))
        if args.mistakes:
            print_mistakes(console, result["mistakes"])
        for warning in result["warnings"]:
            console.out(warning, highlight=False)
