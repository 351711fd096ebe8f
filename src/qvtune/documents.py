"""Read small YAML files that a user writes, without waiting for a pipe and with a limit on their expanded size."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

# The most keys and values after aliases are expanded; nine lines of nine aliases each expand to 387 million.
MOST_NODES = 100_000


def read_document(path: Path) -> str:
    """Return the text of a file.

    Raises:
        OSError: if it is missing or not a file; a pipe is refused, since nobody may ever write into it.
        UnicodeDecodeError: if it is not UTF-8.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is a pipe or a device, and should be a file", str(path))
    return path.read_text(encoding="utf-8")


@contextmanager
def _said_plainly() -> Iterator[None]:
    """Turn what PyYAML raises into a `YAMLError` whose text is for a user."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = ", ".join(str(part) for part in (error.context, error.problem) if part)
        raise yaml.YAMLError(f"{where}{what}.") from None
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply.") from None
    except ValueError as error:  # int() refuses more than 4,300 digits
        raise yaml.YAMLError(str(error)) from None


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the value of a YAML text.

    Raises:
        YAMLError: if it is not YAML, is nested too deeply, expands to too much, or has a number with too many digits.
    """
    with _said_plainly():
        _count(yaml.compose(text, loader), {})
        return yaml.load(text, loader)  # a kind of SafeLoader


def compose_yaml(text: str) -> yaml.Node | None:
    """Return the nodes of a YAML text, whose scalars are texts as they are written, or None for an empty one.

    Raises:
        YAMLError: if it is not YAML, or is nested too deeply.
    """
    with _said_plainly():
        return yaml.compose(text, yaml.SafeLoader)


def key_lines(text: str) -> dict[str, int]:
    """Return the line, counted from 1, of every key of the mapping that a YAML text is."""
    node = compose_yaml(text)
    keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    return {str(key.value): key.start_mark.line + 1 for key in keys}


def _count(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Return the number of keys and values in a node, counting those of an alias as often as it occurs."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if known.get(id(node)) == 0:
        raise yaml.YAMLError("it holds itself by an alias.")
    if id(node) not in known:
        known[id(node)] = 0
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    if known[id(node)] > MOST_NODES:
        raise yaml.YAMLError(f"its aliases unfold to more than {MOST_NODES:,} values.")
    return known[id(node)]
