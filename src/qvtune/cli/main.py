"""`qvtune`: one verb per file; errors become one message and an exit code."""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from qvtune import __version__
from qvtune.cli.parser import Parser
from qvtune.errors import ConfigError, DivergedError, Interrupted, QVTuneError
from qvtune.interrupts import answering_signals
from qvtune.options import UNWRITABLE
from qvtune.processor import instruction_set

VERBS = (
    "train", "suggest", "sweep", "compare", "reproduce", "evaluate", "predict", "chat", "merge", "plan", "show",
    "theory", "runs", "report", "download", "demo", "schema", "env", "completion",
)  # fmt: skip

DIVERGED = 3
USER_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 is success, 2 an error that the user can fix, 3 a run that diverged, 130 a run stopped by a signal.
    """
    words = sys.argv[1:] if argv is None else argv
    odd = next((word for word in words if UNWRITABLE.search(word)), None)
    if odd is not None:
        return _fail(f"the argument {odd!a} holds bytes that are not UTF-8. Rename the file or folder.", USER_ERROR)
    args = build_parser().parse_args(_join_values(words))
    try:
        instruction_set()  # raises before a command has changed anything
        args.execute(args)
    except DivergedError as error:
        return _fail(error, DIVERGED)
    except Interrupted as error:
        return _fail(error, INTERRUPTED, "")
    except KeyboardInterrupt:
        return _fail("interrupted.", INTERRUPTED, "")
    except QVTuneError as error:
        return _fail(error, USER_ERROR)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        return _fail("out of memory. Lower --batch-size or --max-length, or give --gradient-checkpointing.", USER_ERROR)
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe; Python would report that again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        return _fail(f"{error.filename or 'a file'}: {error.strerror}.", USER_ERROR)
    return 0


def run_and_exit() -> None:
    """Entry point of the installed command. SIGTERM ends it as Ctrl-C does, also before a run can save."""
    caught: list[int] = []

    def interrupt(number: int, frame: Any) -> NoReturn:
        caught.append(number)
        raise KeyboardInterrupt

    with answering_signals(interrupt):
        try:
            code = main()
        except KeyboardInterrupt:  # during the import of the commands
            code = _fail("interrupted.", INTERRUPTED, "")
        except Exception:
            if not caught:
                raise
            # A library that calls back into Python, such as pydantic, turned the interruption into its own error.
            code = _fail("interrupted.", INTERRUPTED, "")
    sys.exit(INTERRUPTED if caught and code else code)


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = Parser(
        prog="qvtune",
        description="Fine-tune the attention of pretrained transformers: query and value, each at its own rate.",
    )
    parser.add_argument("--version", action="version", version=f"qvtune {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for verb in VERBS:
        importlib.import_module(f"qvtune.cli.{verb}").add_command(commands)
    return parser


def _join_values(words: Sequence[str]) -> list[str]:
    """Write "--lr -1e-4" as "--lr=-1e-4", and "--budget -5%" and "--sort -metric" likewise: they are values."""
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        is_number = before.startswith("--") and re.fullmatch(r"-[\d.]+(e[+-]?\d+|%)", word, re.IGNORECASE)
        if is_number or (before == "--sort" and re.fullmatch(r"-[^-].*", word)):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _fail(message: object, code: int, start: str = "error: ") -> int:
    # A ConfigError names every problem at once, one per line.
    for line in str(message).splitlines() if isinstance(message, ConfigError) else [message]:
        print(f"{start}{line}", file=sys.stderr)
    return code


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "not enough memory" in str(error)
