"""Where a word of a row is: in a line of its own, or at a number in the row."""

from collections.abc import Sequence


class PlaceOfLines(str):
    """The place of a row that takes several lines of a file, one for each of its words.

    As a text it names the first of them, like the place of any row.
    """

    source: str
    lines: Sequence[int]

    def __new__(cls, source: str, lines: Sequence[int]) -> "PlaceOfLines":
        """Name the lines, counted from 1, of the words of a row."""
        place = super().__new__(cls, f"{source}, line {lines[0]}")
        place.source, place.lines = source, lines
        return place


def place_of_word(place: str, number: int) -> str:
    """Return where a word is, by its number in the row, counted from 1."""
    if isinstance(place, PlaceOfLines):
        return f"{place.source}, line {place.lines[number - 1]}"
    return f"{place}, word {number}"
