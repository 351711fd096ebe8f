"""The JSON Schema of a configuration file, with which editors complete and check it."""

from typing import Any

from qvtune.options import is_list_of_text
from qvtune.training.config import AUTO, SEARCHED, WORDS, TrainConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DIGITS = r"\d+(_\d+)*"
# PyYAML reads 1e-4 as text, and so do some editors; a run reads both.
NUMBER_AS_TEXT = {"type": "string", "pattern": rf"^[-+]?({DIGITS}\.?({DIGITS})?|\.{DIGITS})([eE][-+]?{DIGITS})?$"}
# An option that is null is left to its default.
NULL = {"type": "null"}
LIST_OF_TEXT = {"type": "array", "items": {"type": "string"}}
# Options that are also read from a shorter form.
ALSO: dict[str, list[dict[str, Any]]] = {
    "roles": [LIST_OF_TEXT],
    "layers": [{"type": "integer"}, {"type": "string"}],
    "rate": [{"type": "object", "additionalProperties": {"type": ["number", "string"]}}],
    **{name: [{"const": AUTO}] for name in SEARCHED},
}


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of the YAML files that `--config` of train, sweep, plan, suggest and show reads.

    It knows every option with its type, limits, choices, default and help, the words `task` and `target`, and `axes`
    and `runs` of a sweep. Nothing is required, since the command line may give the rest, and null leaves an option to
    its default; an unknown key is refused.
    """
    options = TrainConfig.model_json_schema()["properties"]
    properties = {name: _as_written(name, entry) for name, entry in options.items()}
    properties |= {
        word: {"type": "string", "description": f"The paper's word for {option}."} for word, option in WORDS.items()
    }
    axes = {name: {"type": "array", "items": entry} for name, entry in properties.items()}
    run = {"type": "object", "additionalProperties": False, "properties": properties}
    return {
        "$schema": DIALECT,
        "title": "qvtune",
        "description": "Options of qvtune train, and of the commands that take the same ones.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **properties,
            "axes": {
                "type": "object",
                "additionalProperties": False,
                "properties": axes,
                "description": "Of qvtune sweep: the options that vary, each with a list of values.",
            },
            "runs": {
                "type": "array",
                "items": run,
                "description": "Of qvtune sweep: the runs, each with its own options, in place of axes.",
            },
        },
    }


def _as_written(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return pydantic's schema of an option with the other forms in which a file may give it."""
    about = {key: entry[key] for key in ("description", "default") if key in entry}
    kind = {key: value for key, value in entry.items() if key not in (*about, "title", "enum", "anyOf")}
    kinds = [dict(part) for part in entry.get("anyOf", [kind])]
    if "enum" in entry:
        kinds[0]["enum"] = entry["enum"]
    if any(part.get("type") in ("number", "integer") for part in kinds):
        kinds.append(NUMBER_AS_TEXT)
    if is_list_of_text(TrainConfig.model_fields[name].annotation):
        kinds.append({"type": "string"})
    kinds += ALSO.get(name, [])
    if len(kinds) > 1 or "type" not in kinds[0]:
        return about | {"anyOf": [*kinds, *([] if NULL in kinds else [NULL])]}
    (one,) = kinds
    choices = {"enum": [*one["enum"], None]} if "enum" in one else {}
    return about | one | choices | {"type": [one["type"], "null"]}
