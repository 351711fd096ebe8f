"""Command-line options made from the fields of an `Options` model, and a parser that suggests the nearest name."""

import argparse
import itertools
import sys
from collections.abc import Collection
from typing import Any, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from qvtune.errors import nearest
from qvtune.options import LARGEST_INT, LONGEST_VALUE, OneOf, Options, is_list_of_text, option_name

# Other tools' names for our options, if they are too different to count as typing errors.
ALIASES = {
    "--learning-rate": "--lr",
    "--num-train-epochs": "--epochs",
    "--num-epochs": "--epochs",
    "--per-device-train-batch-size": "--batch-size",
    "--gradient-accumulation-steps": "--accumulation",
    "--model-name-or-path": "--model",
    "--output-dir": "--out",
    "--output": "--out",
    "--lora-r": "--rank",
    "--lora-alpha": "--alpha",
    "--lora-dropout": "--dropout",
    "--target-modules": "--roles",
    "--train-file": "--data",
    "--validation-file": "--validation",
    "--max-seq-length": "--max-length",
    "--bf16": "--precision",
    "--fp16": "--precision",
    "--lambda": "--lr-ratio",
}


class Parser(argparse.ArgumentParser):
    """argparse, without abbreviations and with a hint after an unknown option or command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse, and refuse unknown arguments here, where the options of the command are known."""
        self._words = list(args[0]) if args and args[0] is not None else sys.argv[1:]
        namespace, rest = super().parse_known_args(*args, **kwargs)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        self._refuse_twice()
        return namespace, rest

    def _refuse_twice(self) -> None:
        """Refuse an option that was given twice and is not a list; argparse would silently take the last one."""
        given: dict[int, str] = {}
        for word in itertools.takewhile(lambda word: word != "--", self._words):
            option = word.partition("=")[0]
            action = self._option_string_actions.get(option)
            if action is None or isinstance(action, argparse._AppendAction):
                continue
            if id(action) in given:
                first = given[id(action)]
                self.error(f"{option} is given twice." if first == option else f"{first} and {option} are both given.")
            given[id(action)] = option

    def error(self, message: str) -> NoReturn:
        """Print the problem with a hint and end with exit code 2."""
        known = [name for action in self._actions for name in action.option_strings]
        if message.startswith("the following arguments are required: "):
            unknown = [w for w in self._words if w.startswith("--") and w.partition("=")[0] not in known]
            missing = message.rpartition(": ")[2]
            message = f"unrecognized arguments: {' '.join(unknown)}" if unknown else f"{missing} is required."
        if message.startswith("unrecognized arguments: "):
            words = message.removeprefix("unrecognized arguments: ").split()
            unknown = [f"unknown option '{w}'.{_suggest(w.partition('=')[0], known)}" for w in words if w[0] == "-"]
            message = " ".join(unknown) or f"unexpected argument '{words[0]}'."
        elif "invalid choice: " in message:
            word = message.partition("invalid choice: '")[2].partition("'")[0]
            choices = [choice for action in self._actions for choice in action.choices or ()]
            message = f"unknown command '{word}'.{nearest(word, choices)} Commands are {', '.join(choices)}."
        print(f"error: {message} See '{self.prog} --help'.", file=sys.stderr)
        raise SystemExit(2)


def add_options(parser: argparse.ArgumentParser, cls: type[Options], without: Collection[str] = ()) -> None:
    """Add an option for every field of `cls`, in a group per class that defines it; options not given leave no entry.

    The fields `without` are left out.
    """
    done = set(without)
    for part in (*reversed([base for base in cls.__bases__ if issubclass(base, Options) and base is not Options]), cls):
        group = parser.add_argument_group((part.__doc__ or "").rstrip("."))
        for name in part.__annotations__:
            if name in cls.model_fields and name not in done:
                done.add(name)  # a class may redefine an inherited field
                _add_option(group, name, cls.model_fields[name])


def _add_option(group: Any, name: str, field: FieldInfo) -> None:
    kind = field.annotation
    silent = field.default is None or field.default is False or field.default == []
    note = " (required)" if field.is_required() else "" if silent else f" (default: {field.default})"
    settings: dict[str, Any] = {
        "dest": name,
        "default": argparse.SUPPRESS,
        "help": f"{field.description or ''}{note}".replace("%", "%%"),
    }
    if kind in (bool, bool | None):
        settings["action"] = argparse.BooleanOptionalAction
    elif is_list_of_text(kind):
        settings |= {"action": "append", "metavar": "NAME"}
    else:
        names = next((list(about.names) for about in field.metadata if isinstance(about, OneOf)), None)
        settings["metavar"] = _listed(names) if names else _metavar(kind)
    group.add_argument(option_name(name), **settings)


def add_words(parser: argparse.ArgumentParser) -> None:
    """Add the paper's words for data and roles; words not given leave no entry."""
    parser.add_argument("--task", default=argparse.SUPPRESS, metavar="TASK", help="Short for --data glue/TASK.")
    parser.add_argument(
        "--target",
        default=argparse.SUPPRESS,
        metavar="NAMES",
        help="The roles by the names of their projections, as in q_proj,v_proj, in place of --roles.",
    )


def given_words(args: argparse.Namespace) -> dict[str, str]:
    """Return the words of `add_words` that were on the command line."""
    return {name: getattr(args, name) for name in ("task", "target") if hasattr(args, name)}


def positive(text: str) -> int:
    """Read a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: if it is not; argparse turns this into an error that names the option.
    """
    if not text.isdecimal() or len(text) > 10 or not 1 <= int(text) <= LARGEST_INT:
        raise argparse.ArgumentTypeError(
            f"is '{text[:LONGEST_VALUE]}'; it should be a whole number of at least 1 and at most {LARGEST_INT}"
        )
    return int(text)


def given(args: argparse.Namespace, cls: type[Options]) -> dict[str, Any]:
    """Return the options of `cls` that were on the command line."""
    return {name: getattr(args, name) for name in cls.model_fields if hasattr(args, name)}


def _suggest(option: str, known: list[str]) -> str:
    alias = ALIASES.get(option.replace("_", "-"))
    return f" Did you mean '{alias}'?" if alias in known else nearest(option, known)


def _listed(choices: Collection[str]) -> str:
    return "{" + ",".join(choices) + "}"


def _metavar(kind: Any) -> str:
    choices = [choice for choice in get_args(kind) if isinstance(choice, str)]
    if not choices:
        choices = [c for part in get_args(kind) for c in get_args(part) if isinstance(c, str)]
    if choices:
        return _listed(choices)
    plain = kind if get_origin(kind) is list else next((p for p in get_args(kind) if p is not type(None)), kind)
    names = {int: "N", float: "X", str: "TEXT"}
    return names.get(plain, "LIST" if "list" in str(plain) else "PATH")
