"""Read a list of messages in OpenAI's form as turns. What cannot be learned from is refused with its place."""

from collections.abc import Sequence
from typing import Any

from qvtune.errors import DataError, nearest
from qvtune.tasks.causal.conversation import ASSISTANT, ROLES, Turn

SUPPORTED = "Supported are text messages of the roles system, user and assistant"
# Keys and roles by which other tools write calls of tools, and what they return.
TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id", "tools")
TOOL_ROLES = ("tool", "function", "ipython")
TEXT_PARTS = ("text", "input_text", "output_text")


def read_turns(value: Any, column: str, place: str) -> tuple[Turn, ...]:
    """Return the turns of a list of messages, such as `{"role": "user", "content": "Hello"}`.

    An assistant's message may have `weight`, 0 or 1: with 0 it is read and not trained. The content may be a list of
    parts of type text.

    Args:
        value: the cell.
        column: its column.
        place: its file and line.

    Raises:
        DataError: for anything else.
    """
    if not isinstance(value, (list, tuple)):
        raise DataError(
            f"{place}: column '{column}' is {_kind(value)}, and should be a list of messages, such as "
            '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].'
        )
    if not value:
        raise DataError(f"{place}: column '{column}' holds no message. Correct or remove that row.")
    return tuple(
        _read_turn(message, f"{place}: message {number} of '{column}'") for number, message in enumerate(value, 1)
    )


def _read_turn(message: Any, where: str) -> Turn:
    if not isinstance(message, dict):
        raise DataError(f"{where} is {_kind(message)}, and should be an object with role and content.")
    given = {name: part for name, part in message.items() if part is not None}  # Parquet fills up with nothing
    role = given.get("role")
    if role in TOOL_ROLES or any(given.get(name) for name in TOOL_KEYS):
        raise DataError(f"{where} calls a tool or is a tool's, which is not supported. {SUPPORTED}.")
    if role is None:
        known = "; 'from' and 'value' are ShareGPT's names for role and content" if "from" in given else ""
        raise DataError(f"{where} has no role{known}. {SUPPORTED}.")
    if role not in ROLES:
        hint = " Write 'system' instead." if role == "developer" else nearest(str(role), ROLES)
        raise DataError(f"{where} has the role '{role}'.{hint} {SUPPORTED}.")
    odd = sorted(given.keys() - {"role", "content", "weight", "name", *TOOL_KEYS})
    if odd:
        raise DataError(f"{where} has '{odd[0]}', which is not supported. {SUPPORTED}, with role and content.")
    content = _text(given.get("content"), where)
    if not content.strip() and role == ASSISTANT:
        raise DataError(f"{where} is the assistant's and empty. Give it words, or remove the row.")
    weight = given.get("weight", 1)
    if weight not in (0, 1):
        raise DataError(f"{where} has the weight {weight!r}; it is 1, or 0 for words that are not trained.")
    return Turn(role, content, bool(weight))


def _text(content: Any, where: str) -> str:
    if content is None:
        raise DataError(f"{where} has no content. {SUPPORTED}.")
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise DataError(f"{where} has content that is {_kind(content)}. {SUPPORTED}.")
    return "".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
        what = f"a part of type '{kind}'" if kind else _kind(part)
        raise DataError(f"{where} holds {what}, which is not supported: images, audio and files are not. {SUPPORTED}.")
    return part["text"]


def check_roles(turns: Sequence[Turn], place: str) -> None:
    """Check that a conversation has an answer to learn from.

    Raises:
        DataError: if the assistant never speaks, or nothing that it says is trained.
    """
    if not any(turn.role == ASSISTANT for turn in turns):
        raise DataError(
            f"{place}: the conversation has no turn of the assistant, so there is nothing to learn. Remove the row, "
            "or add the answer."
        )
    if not any(turn.is_answer for turn in turns):
        raise DataError(f"{place}: every turn of the assistant has the weight 0, so there is nothing to learn.")


def _kind(value: Any) -> str:
    names = {str: "text", dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return "missing" if value is None else names.get(type(value), f"a {type(value).__name__}")
