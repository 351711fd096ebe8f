"""Tokens of texts whose words have labels: which token stands for a word, and windows over texts that are too long."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from qvtune.errors import ModelError

# The part of a window that overlaps with the one before it.
OVERLAP = 4
Span = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A part of a text: its tokens, and the words that are read in it.

    Attributes:
        inputs: what the model is given.
        words: numbers of the words in their text.
        positions: for each of them, the token that stands for it: the first one that holds a part of it.
    """

    inputs: dict[str, list[int]]
    words: list[int]
    positions: list[int]


def windows_of(
    texts: Sequence[str], spans: Sequence[Sequence[Span]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[list[Window]]:
    """Return the windows of every text.

    A text that fits is one window. Windows of a longer one overlap by a quarter. Every word is read in one window: the
    one in which its token is furthest from a cut. A word of which the tokenizer keeps nothing shares the token of the
    word before it.

    Args:
        texts: the texts.
        spans: for every text, the start and the end of every word, in characters.
        tokenizer: knows where its tokens are in a text.
        max_length: most tokens of a window, the special ones included.

    Raises:
        ModelError: if the tokenizer does not know where its tokens are.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{tokenizer.name_or_path}: its tokenizer does not say where in a text its tokens are, so tags cannot be "
            "matched with them. Use a model with a tokenizer.json."
        )
    inner = max_length - tokenizer.num_special_tokens_to_add(pair=False)
    if inner < OVERLAP:
        raise ModelError(f"--max-length is {max_length}, too few for a window of words; give at least {OVERLAP + 4}.")
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        stride=inner // OVERLAP,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    names = [name for name in tokenizer.model_input_names if name in encoded]
    rows_of: list[list[int]] = [[] for _ in texts]
    for row, text in enumerate(encoded["overflow_to_sample_mapping"]):
        rows_of[text].append(row)
    return [
        _place_words(
            spans[text],
            [{name: encoded[name][row] for name in names} for row in rows],
            [encoded["offset_mapping"][row] for row in rows],
        )
        for text, rows in enumerate(rows_of)
    ]


def _place_words(
    spans: Sequence[Span], inputs: Sequence[dict[str, list[int]]], offsets: Sequence[Sequence[Span]]
) -> list[Window]:
    windows = [Window(given, [], []) for given in inputs]
    seen = [_first_tokens(spans, found) for found in offsets]
    place = (0, _first_of_text(offsets[0]))
    for word in range(len(spans)):
        candidates = [(window, found[word]) for window, found in enumerate(seen) if word in found]
        if candidates:
            place = max(candidates, key=lambda at: _room(at, offsets))
        window, position = place
        windows[window].words.append(word)
        windows[window].positions.append(position)
    return windows


def _first_tokens(spans: Sequence[Span], offsets: Sequence[Span]) -> dict[int, int]:
    """Return, by word, the first token that holds a part of it; tokens and words are in the order of the text."""
    found: dict[int, int] = {}
    word = 0
    for position, (start, end) in enumerate(offsets):
        if start == end:  # a special token
            continue
        while word < len(spans) and spans[word][1] <= start:
            word += 1
        reached = word
        while reached < len(spans) and spans[reached][0] < end:
            found.setdefault(reached, position)
            reached += 1
    return found


def _first_of_text(offsets: Sequence[Span]) -> int:
    return next((position for position, (start, end) in enumerate(offsets) if end > start), 0)


def _room(at: tuple[int, int], offsets: Sequence[Sequence[Span]]) -> float:
    """Return how many tokens are between a token and the nearest cut of its window; the text's ends are no cuts."""
    window, position = at
    inner = [place for place, (start, end) in enumerate(offsets[window]) if end > start]
    before = position - inner[0] if window > 0 else float("inf")
    after = inner[-1] - position if window < len(offsets) - 1 else float("inf")
    return min(before, after)


def window_rows(windows: Sequence[Sequence[Window]], labels: Sequence[Sequence[int]] | None) -> Dataset:
    """Return a row for every window with a word, and for a text without words its first window.

    Args:
        windows: by text.
        labels: by text, of every word.

    Returns:
        The inputs of the model, `example` (the text's number), `words`, `positions`, and `labels` of those words.
    """
    rows: list[dict[str, Any]] = []
    for example, parts in enumerate(windows):
        kept = [part for part in parts if part.words] or parts[:1]
        for part in kept:
            row = part.inputs | {"example": example, "words": part.words, "positions": part.positions}
            rows.append(row | ({} if labels is None else {"labels": [labels[example][word] for word in part.words]}))
    return Dataset.from_list(rows)
