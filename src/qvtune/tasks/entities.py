"""Tags of entities: their scheme, whether they follow each other as it says, and the entities that they mean."""

from collections.abc import Sequence
from typing import NamedTuple

from qvtune.data.places import place_of_word
from qvtune.errors import DataError

OUTSIDE = "O"
IOB2, IOBES, PLAIN = "IOB2", "IOBES", "plain"
PREFIXES = {IOB2: ("B", "I"), IOBES: ("B", "I", "E", "S")}


class Entity(NamedTuple):
    """The words from `first` up to and with `last`, of one type."""

    type: str
    first: int
    last: int


def split_tag(tag: str) -> tuple[str, str]:
    """Return the prefix and the type of a tag: ("B", "person") for B-person, ("", tag) for one without a prefix."""
    prefix, dash, kind = tag.partition("-")
    return (prefix, kind) if dash and kind and len(prefix) == 1 else ("", tag)


def scheme_of(tags: Sequence[str]) -> str:
    """Return the scheme of a set of tags: IOB2, IOBES, or plain if tags do not mark where entities begin."""
    prefixes = {split_tag(tag)[0] for tag in tags if tag != OUTSIDE}
    if not prefixes or "" in prefixes:
        return PLAIN
    return next((name for name, known in PREFIXES.items() if prefixes <= set(known)), PLAIN)


def check_sequence(tags: Sequence[str], scheme: str, place: str) -> None:
    """Check that tags follow each other as their scheme says.

    Raises:
        DataError: if one goes on an entity that has not begun; the text names the word.
    """
    before = OUTSIDE
    for number, tag in enumerate(tags, 1):
        prefix, kind = split_tag(tag)
        before_prefix, before_kind = split_tag(before)
        is_open = before_prefix in ("B", "I") and before_kind == kind
        if scheme != PLAIN and prefix in ("I", "E") and not is_open:
            raise DataError(
                f"{place_of_word(place, number)}: the tag {tag} follows {before}, and goes on an entity that has not "
                f"begun. An entity begins with {'B- or S-' if scheme == IOBES else 'B-'}, as in B-{kind}."
            )
        before = tag


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """Return the entities in the tags of a text, by seqeval: as in conlleval, one may also begin with I."""
    from seqeval.metrics.sequence_labeling import get_entities

    return [Entity(*found) for found in get_entities(list(tags))]
