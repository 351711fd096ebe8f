"""The option `--push-to-hub`, of the commands that write an adapter or a model."""

import argparse
from pathlib import Path

from qvtune.errors import ConfigError


def add_push_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--push-to-hub",
        metavar="NAME",
        help="Put the result on the Hugging Face hub under this name, as in me/reviews. Nothing is sent without this.",
    )
    parser.add_argument("--private", action="store_true", help="With --push-to-hub: let nobody else see it.")


def check_push_options(args: argparse.Namespace) -> None:
    """Check the name, the network and the login, if something is to be pushed.

    Raises:
        QVTuneError: if it could not be pushed.
    """
    if args.push_to_hub is None:
        if args.private:
            raise ConfigError("--private is for --push-to-hub NAME, which is not given. Leave it out.")
        return
    from qvtune.training.sharing import check_push

    check_push(args.push_to_hub)


def push(args: argparse.Namespace, folder: Path) -> None:
    """Push a run or a merged model if it is asked for, and say where it is."""
    if args.push_to_hub is not None:
        from qvtune.training.sharing import push_to_hub

        print(f"Pushed to {push_to_hub(folder, args.push_to_hub, private=args.private)}")
