"""`qvtune chat`."""

import argparse
import sys
from typing import Any

from qvtune.cli.evaluate import add_device, add_run_options, check_paths
from qvtune.cli.parser import positive
from qvtune.errors import ConfigError


def add_command(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "chat",
        help="talk with the model of a run",
        description="Talk with the model of a run on conversations or completions. Each line is a message; Ctrl-D "
        "ends.",
    )
    add_run_options(parser)
    parser.add_argument("--once", default=None, metavar="TEXT", help="Answer this message, and end.")
    parser.add_argument("--system", default=None, metavar="TEXT", help="What the system says before the conversation.")
    parser.add_argument("--max-new-tokens", type=positive, default=None, metavar="N", help="Most tokens of an answer.")
    add_device(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Answer one message, or every line of the input."""
    check_paths(args)
    for name in ("once", "system"):
        if getattr(args, name) is not None and not getattr(args, name).strip():
            raise ConfigError(f"--{name} is empty. Give it words, or leave it out.")
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    from qvtune.training.chatting import chat
    from qvtune.training.inference import load_run

    run = load_run(args.run, model=args.model, device=args.device)
    messages = [{"role": "system", "content": args.system}] if args.system is not None else []
    for text in _lines() if args.once is None else [args.once]:
        messages.append({"role": "user", "content": text})
        answer = chat(run, messages, max_new_tokens=args.max_new_tokens)
        print(answer, flush=True)
        messages.append({"role": "assistant", "content": answer or " "})


def _lines() -> Any:
    """Yield what the user types, or the lines of a file or pipe; empty ones are passed over."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print()
            return
        if text:
            yield text
