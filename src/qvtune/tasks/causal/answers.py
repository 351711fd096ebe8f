"""Compare what a model wrote with the answers of the data: the whole, or what a pattern finds in it."""

import re
from collections.abc import Sequence

from qvtune.errors import ConfigError, DataError


def check_pattern(pattern: str) -> str:
    """Return a regular expression as it is.

    Raises:
        ConfigError: if it is none.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--answer-pattern is '{pattern}', which is no regular expression: {error}.") from error
    return pattern


def find_answer(text: str, pattern: str | None) -> str | None:
    """Return what counts as the answer in a text, or None if the pattern finds nothing.

    Args:
        text: what was written.
        pattern: a regular expression. The last place where it fits counts, and there its first group if it has one. The
            whole text counts when None.
    """
    if pattern is None:
        return text.strip()
    places = list(re.finditer(pattern, text))
    if not places:
        return None
    return ((places[-1][1] or "") if places[-1].re.groups else places[-1][0]).strip()


def wanted_answer(answer: str, final: str | None, pattern: str | None, place: str) -> str:
    """Return what an example's answer comes to.

    Args:
        answer: the whole answer.
        final: what the file says that it comes to, if it says so.
        pattern: as for `find_answer`.
        place: where the example is.

    Raises:
        DataError: if the pattern finds nothing in it.
    """
    if pattern is None:
        return answer.strip()
    found = find_answer(answer, pattern)
    if found is None and final is not None:
        found = find_answer(final, pattern) or final.strip()
    if found is None:
        raise DataError(
            f"{place}: --answer-pattern {pattern} finds nothing in the answer that begins with '{answer[:60]}'. "
            "Correct the pattern or the row."
        )
    return found


def share_right(written: Sequence[str], wanted: Sequence[str], pattern: str | None) -> float:
    """Return the share of texts whose answer is the wanted one."""
    right = sum(find_answer(text, pattern) == answer for text, answer in zip(written, wanted, strict=True))
    return right / len(wanted) if wanted else 0.0
