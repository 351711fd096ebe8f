"""Read JSON files that qvtune has written: with the types that were written, or one error that names the place."""

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from qvtune.errors import QVTuneError, RunError


def read_stored(path: Path, kind: Any, remedy: str, error: type[QVTuneError] = RunError) -> Any:
    """Return the content of a file as a value of a type: a typed dictionary, a data class, a list of either.

    Args:
        path: the file.
        kind: what it holds.
        remedy: a sentence that says what to do if the file is missing or damaged.
        error: the class of the error to raise.

    Raises:
        QVTuneError: `error`; it names the file, the first wrong place in it, and the remedy.
    """
    try:
        return _validator(kind).validate_json(path.read_bytes(), strict=True)
    except OSError as failure:
        raise error(f"{path}: is missing or cannot be read: {failure.strerror}. {remedy}") from failure
    except ValidationError as failure:
        raise error(f"{path}: is damaged, or was edited: {first_problem(failure)}. {remedy}") from failure


@cache
def _validator(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)  # making one takes longer than reading a file


def first_problem(failure: ValidationError) -> str:
    """Return the place and text of pydantic's first problem, in one line."""
    found = failure.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, found["loc"]))
    text = found["msg"][:1].lower() + found["msg"][1:]
    return f"{place}: {text}" if place else text
