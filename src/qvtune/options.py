"""Options defined once: the fields of these models are the command line, the YAML file and the Python call."""

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from qvtune.errors import ConfigError, nearest

# A zero byte, and the characters that Python uses for bytes of a name that are not UTF-8.
UNWRITABLE = re.compile("[\0\ud800-\udfff]")
# Larger counts do not fit in machine integers, and larger numbers not in float32.
LARGEST_INT = 2**32 - 1
LARGEST_FLOAT = 1e38
# How many characters of a bad value its message shows.
LONGEST_VALUE = 80


class Options(BaseModel):
    """Base of every set of options. A field's description is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    command: ClassVar[str] = "train"

    @model_validator(mode="before")
    @classmethod
    def _read_plainly(cls, values: dict[str, Any]) -> dict[str, Any]:
        plain = {}
        for name, value in values.items():
            kind = cls.model_fields[name].annotation if name in cls.model_fields else None
            if isinstance(value, bool) and kind is not bool and name in cls.model_fields and not is_text(kind):
                value = str(value)  # YAML's yes and on are not numbers
            elif isinstance(value, str) and is_list_of_text(kind):
                value = [value]  # in a file, a single value needs no brackets
            # A shell expands ~ in a separate word, but not in --option=~/x or in a file.
            plain[name] = os.path.expanduser(value) if str(value).startswith("~") else value
        return plain

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.strip():
                raise ValueError("it is empty. Give a value, or leave the option out.")
            if isinstance(text, (str, Path)) and (odd := UNWRITABLE.search(str(text))):
                raise ValueError(f"it holds {odd[0]!a}, which no name can have here. Rename the file or folder.")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _check_size(cls, value: Any) -> Any:
        for number in value if isinstance(value, list) else [value]:
            largest = LARGEST_FLOAT if isinstance(number, float) else LARGEST_INT
            if isinstance(number, (int, float)) and abs(number) > largest:
                raise ValueError(f"it should be at most {largest:g}.")
        return value


@dataclass(frozen=True)
class OneOf:
    """Marks an option, as in `Annotated[str, OneOf(names)]`, as one of some names; more names may be added later.

    Any other name is refused in the words of a `Literal`.
    """

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the name after pydantic has read the text."""
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Name the choices in the JSON schema of the options."""
        return {**handler(schema), "enum": list(self.names)}

    def _check(self, name: str | None) -> str | None:
        if name is not None and name not in self.names:
            *others, last = (repr(known) for known in self.names)
            choices = f"{', '.join(others)} or {last}" if others else last
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": choices})
        return name


O = TypeVar("O", bound=Options)


def parse_options(cls: type[O], values: dict[str, Any], files: Mapping[str, str] | None = None) -> O:
    """Check `values` and return the options.

    Args:
        cls: the class of the options.
        values: by field name; strings are converted to the field's type.
        files: by field name, the file and line that a value comes from, for messages; other values come from the
            command line.

    Raises:
        ConfigError: for any problems; the text names all of them.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        problems = [_problem(cls, dict(item), files or {}) for item in error.errors()]
        raise ConfigError("\n".join(problems)) from None


def is_text(kind: Any) -> bool:
    """Whether a field's annotation is text or a path, or that or None."""
    return bool({kind, *get_args(kind)} & {str, Path}) and not is_list_of_text(kind)


def is_list_of_text(kind: Any) -> bool:
    """Whether a field's annotation is a list of strings, or that or None."""
    return kind == list[str] or list[str] in get_args(kind)


def option_name(field: str) -> str:
    """Return the command-line spelling of a field."""
    return "--" + field.replace("_", "-")


def _problem(cls: type[Options], error: dict[str, Any], files: Mapping[str, str]) -> str:
    location = [str(part) for part in error["loc"]]
    field = location[0] if location else ""
    name = f"{files[field]}: {field}" if field in files else option_name(field)
    if error["type"] == "extra_forbidden":
        hint = nearest(field, cls.model_fields)
        return f"{name}: unknown option.{hint} 'qvtune {cls.command} --help' lists all."
    if error["type"] == "missing":
        return f"{name} is required."
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not field:
        return message
    if message.startswith("should"):
        choices = re.findall(r"'([^']+)'", message) if error["type"] == "literal_error" else []
        message = f"it {message}.{nearest(str(error['input']), choices)}"
    value = repr(error["input"])
    value = value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}... ({len(value):,} characters)"
    return f"{name} is {value}; {message}" + ("" if message.endswith((".", "?")) else ".")
