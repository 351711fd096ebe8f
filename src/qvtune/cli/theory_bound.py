"""`qvtune theory bound`."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from qvtune.cli.evaluate import add_device
from qvtune.cli.parser import add_options, given
from qvtune.errors import ConfigError
from qvtune.options import Options, option_name, parse_options
from qvtune.training.config import AdaptOptions

if TYPE_CHECKING:
    from rich.console import Console

    from qvtune.theory.bound import Bound

# Training options that do not matter for the theorem.
UNCOUNTED = ("alpha", "dropout", "density", "new_head")


class LossOptions(Options):
    """The loss."""

    sub_gaussian: float = Field(
        1.0,
        gt=0,
        description="R: the loss is R-sub-Gaussian, as one that stays in an interval of length 2 R is. The bound is "
        "proportional to it.",
    )


class BoundOptions(LossOptions, AdaptOptions):
    """What it learns from, and how it is stored."""

    method: str = Field("lora", description="lora or full; the theorem is for no other.")
    examples: int = Field(ge=1, description="N, the number of training examples.")
    bits: int = Field(32, ge=1, description="q, bits in which each trained number is stored.")


def add_command(commands: Any) -> None:
    """Add the sub-verb to the command line."""
    parser = commands.add_parser(
        "bound",
        help="Theorem 1: a bound of the generalisation error",
        usage="qvtune theory bound (--model MODEL --examples N | --run DIR) [option ...]",
        description="Compute Theorem 1's bound of the generalisation error, term by term, of a model without loading "
        "weights, or of a finished run beside the gap that is measured on its data.",
    )
    add_options(parser, BoundOptions, without=UNCOUNTED)
    parser.add_argument(
        "--run",
        type=Path,
        default=None,
        metavar="DIR",
        help="Folder of a finished run, which says what trained, and on how many examples. --model is then where its "
        "base model is now, if it has moved.",
    )
    add_device(parser)
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="Write bound.json, a page and pictures.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Compute, print and write."""
    values = given(args, BoundOptions)
    settings: Any = _loss_of_run(values) if args.run else parse_options(BoundOptions, values)
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from qvtune.report.bound_page import RECORD, BoundReport
    from qvtune.training.folder import check_free

    if args.out is not None:
        check_free(args.out, RECORD)
    if args.run:
        from qvtune.lab.gap import attention_of_run, measure_bound
        from qvtune.training.inference import load_run

        run = load_run(args.run, model=values.get("model"), device=args.device)
        measured = measure_bound(run, sub_gaussian=settings.sub_gaussian)
        report = BoundReport(run.config.model, attention_of_run(run), measured.bound, measured)
    else:
        report = BoundReport(settings.model, *_bound_of_model(settings))
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        console = Console()
        for sentence in (*report.sentences(), *report.notes()):
            console.out(sentence, highlight=False)
        _print_terms(console, report.bound)
    for path in report.write(args.out) if args.out is not None else ():
        Console(stderr=args.json).out(f"Wrote {path}", highlight=False)


def _loss_of_run(values: dict[str, Any]) -> LossOptions:
    others = [name for name in values if name not in ("model", "sub_gaussian")]
    if others:
        raise ConfigError(f"{option_name(others[0])} is given, and --run says what trained. Leave one of them out.")
    return parse_options(LossOptions, {name: value for name, value in values.items() if name == "sub_gaussian"})


def _bound_of_model(options: BoundOptions) -> Any:
    from qvtune.theory.bound import generalization_bound
    from qvtune.training.plan import attention_without_weights

    attention = attention_without_weights(options)
    bound = generalization_bound(
        attention,
        roles=options.roles,
        method=options.method,
        rank=options.rank if "rank" in options.model_fields_set else None,
        layers=options.layers,
        examples=options.examples,
        bits=options.bits,
        sub_gaussian=options.sub_gaussian,
    )
    return attention, bound


def _print_terms(console: "Console", bound: "Bound") -> None:
    """Print each role's contribution, with matrices of equal size together; the JSON and the page list every matrix."""
    from rich.table import Table

    table = Table("role", "matrices", "numbers", "share", "bound alone")
    for column in table.columns[2:]:
        column.justify = "right"
    for role, part in bound.by_role().items():
        sizes = Counter((term.rows, term.inputs) for term in bound.terms if term.role == role)
        matrices = ", ".join(f"{number} of {rows} x {inputs}" for (rows, inputs), number in sizes.items())
        table.add_row(role, matrices, f"{part.numbers:,}", f"{part.share:.1%}", f"{part.bound:.5g}")
    table.add_section()
    table.add_row("all", "", f"{bound.numbers:,}", "", f"{bound.bound:.5g}")
    console.print(table)
