"""`python -m qvtune.conformance`."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from qvtune.conformance.ways import ALL
from qvtune.errors import QVTuneError

FAILURE, USER_ERROR = 1, 2


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(
        prog="python -m qvtune.conformance",
        description="Check that groups, rates and adapters survive data parallel and sharding. Launched by torchrun or "
        "accelerate launch, it runs on their processes; else it starts two on the CPU. Exit code 0: nothing failed; "
        "1: something did; 2: an option is wrong.",
    )
    parser.add_argument("--ways", metavar="LIST", help=f"Ways to check, with commas, of {ALL}; all if not given.")
    parser.add_argument(
        "--wrapper",
        metavar="MODULE:FUNCTION",
        help="A wrapping function of your own: wrap(model, setup) returns the model and its optimizer, "
        "AdamW(setup.groups(model)). Without --ways it is checked alone.",
    )
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="Device of launched processes.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument("--report", type=Path, metavar="FILE", help="Write JSON to this file and print nothing.")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite, print its report from the first process, and return the exit code."""
    args = build_parser().parse_args(argv)
    sys.path.insert(0, "")  # for a --wrapper beside the caller
    try:
        with redirect_stdout(sys.stderr):  # libraries print
            from qvtune.conformance.group import is_first
            from qvtune.conformance.suite import check_conformance

            report = check_conformance(args.ways, wrapper=args.wrapper, device=args.device)
    except QVTuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    if is_first():
        if args.report is not None:
            args.report.write_text(json.dumps(report.to_dict(), ensure_ascii=False), encoding="utf-8")
        else:
            print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) if args.json else report)
    return FAILURE if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
