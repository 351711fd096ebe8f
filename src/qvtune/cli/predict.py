"""`qvtune predict`."""

import argparse
from pathlib import Path
from typing import Any

from qvtune.cli.evaluate import add_device, add_run_options, add_text_column, check_paths
from qvtune.cli.parser import positive
from qvtune.errors import ConfigError


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "predict",
        help="predict a file with a run, or GLUE's test set",
        description="Write labels and probabilities (or scores) for every row of a file as JSONL or CSV; for "
        "glue/TASK, the test sets in the benchmark's submission format.",
    )
    add_run_options(parser)
    parser.add_argument("--data", required=True, metavar="TEXT", help="A file with the text columns, or glue/TASK.")
    add_text_column(parser)
    parser.add_argument("--glue-dir", type=Path, default=None, metavar="PATH", help="Folder with GLUE's TSV folders.")
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FILE",
        help="Ends in .jsonl or .csv; for GLUE .tsv or a folder. In the run folder's predictions/ when left out.",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace predictions that are there.")
    parser.add_argument(
        "--spreadsheet-safe",
        action="store_true",
        help="Put an apostrophe before cells of a CSV file that begin with =, +, - or @, which a spreadsheet computes.",
    )
    parser.add_argument("--batch-size", type=positive, default=None, metavar="N", help="Examples per forward pass.")
    add_device(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Predict, and print what was written."""
    check_paths(args)
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    from qvtune.amounts import count
    from qvtune.data.glue import glue_name
    from qvtune.data.packaged import PREFIX
    from qvtune.data.tables import table_name
    from qvtune.training.inference import load_run, predict_file, predict_glue
    from qvtune.training.predictions import count_formulas

    name = glue_name(args.data)
    if args.data.startswith(PREFIX):
        raise ConfigError(f"--data is {args.data}; predictions are made for a file, or for glue/TASK.")
    run = load_run(args.run, model=args.model, device=args.device)
    if name is None:
        out = args.out or run.folder.predictions / f"{table_name(Path(args.data))}.jsonl"
        rows, empty = predict_file(
            run,
            Path(args.data),
            out,
            batch_size=args.batch_size,
            text_columns=args.text_column,
            overwrite=args.overwrite,
            spreadsheet_safe=args.spreadsheet_safe,
        )
        print(f"Wrote {count(rows, 'prediction')} to {out}")
        if empty:
            print(f"{count(empty, 'row')} without any text: what is predicted for them means nothing.")
        if out.suffix.lower() == ".csv" and (formulas := count_formulas(out)):
            print(
                f"{formulas:,} cells begin as formulas do (=, +, -, @), and a spreadsheet would compute them: "
                "--spreadsheet-safe puts an apostrophe before them."
            )
        return
    if args.text_column is not None:
        raise ConfigError(f"--text-column is for a file, and --data is {args.data}. Leave it out.")
    glue_dir = args.glue_dir or run.config.glue_dir
    if glue_dir is None:
        raise ConfigError("--glue-dir is required: the test set is read from the benchmark's TSV folders.")
    out = args.out or run.folder.predictions
    for path in predict_glue(run, name, glue_dir, out, batch_size=args.batch_size, overwrite=args.overwrite):
        print(f"Wrote {path}")
