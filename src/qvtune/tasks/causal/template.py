"""Write conversations by a chat template, and find which characters the assistant wrote.

Stock templates do not mark these characters. They are found by comparing what the template writes for the turns before
an answer, for the turns up to it, and for the whole conversation.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from qvtune.errors import DataError, ModelError
from qvtune.tasks.causal.conversation import ASSISTANT, Conversation, Turn, messages_of

# What a model without a chat template gets. Every answer ends with the token that ends texts.
PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n' }}"
    "{% else %}{{ 'Assistant: ' + message['content'] + eos_token + '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
PLAIN_NOTE = (
    "The tokenizer has no chat template. Conversations are written plainly, as 'User: ...' and 'Assistant: ...' on "
    "lines of their own; --chat-template FILE gives another form."
)
# Stands for the words of a turn to see where a template puts them; a character that no text has a meaning for.
MARK = "\ue000"

Span = tuple[int, int]


def fit_template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> list[str]:
    """Give a tokenizer the chat template to use: the one given, its own, or the plain one, which a sentence says.

    Raises:
        ModelError: if it has no token that ends texts, so that no answer could end.
    """
    if tokenizer.eos_token is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token, so the model could not learn where an answer ends. Give a "
            "decoder, such as pkg:smollm2; if this is one, set eos_token in its tokenizer_config.json."
        )
    if template is not None:
        tokenizer.chat_template = template
        return []
    if tokenizer.chat_template is not None:
        return []
    starts = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    tokenizer.chat_template = ("{{ bos_token }}" if starts else "") + PLAIN
    return [PLAIN_NOTE]


def write_turns(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], place: str, *, asks: bool = False) -> str:
    """Return turns as the template writes them.

    Args:
        tokenizer: has the template.
        turns: who says what.
        place: where they are, for messages.
        asks: end with what the template puts before an answer.

    Raises:
        DataError: if the template has a mistake in its form, or refuses the turns, such as a system turn, or the same
            role twice in a row.
    """
    try:
        return str(tokenizer.apply_chat_template(messages_of(turns), tokenize=False, add_generation_prompt=asks))
    except TemplateSyntaxError as error:
        raise DataError(
            f"the chat template is no Jinja template: line {error.lineno}: {error.message}. Mend the file that "
            "--chat-template names, or leave it out."
        ) from error
    except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"{place}: the chat template refuses this conversation ({', '.join(turn.role for turn in turns)}): {said}. "
            "Change its turns, or give another template by --chat-template FILE."
        ) from error


def write_conversation(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, place: str
) -> tuple[str, list[Span]]:
    """Return a conversation as the template writes it, and the characters of its trained answers with their ends.

    Raises:
        DataError: if the template refuses the conversation, or does not show where an answer is.
    """
    turns = conversation.turns
    whole = write_turns(tokenizer, turns, place)
    _check_said(tokenizer, turns, whole, place)
    spans: list[Span] = []
    for number, turn in enumerate(turns):
        if turn.is_answer:
            start, end = _answer_span(tokenizer, turns, number, whole, place)
            if spans and start < spans[-1][1]:
                raise _unclear(number, place)
            spans.append((start, end))
    return whole, spans


def _answer_span(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], number: int, whole: str, place: str
) -> Span:
    """Return where an answer starts and ends in `whole`, its end-of-turn token included and what follows it not."""
    before = _before(tokenizer, turns[:number], place)
    upto = whole if number == len(turns) - 1 else write_turns(tokenizer, turns[: number + 1], place)
    words = turns[number].content.strip()
    if before is not None and whole.startswith(before) and whole.startswith(upto):
        start, end = len(before), len(upto)
        place_of_words = whole.rfind(words, start, end)
        if place_of_words >= 0:
            words_end = place_of_words + len(words)
            return start, words_end + _end_of_turn(tokenizer, whole[words_end:end], whole[words_end:])
    first, last = _place_of_words(tokenizer, turns, number, whole, place)
    start = len(before) if before is not None and whole.startswith(before) and len(before) <= first else first
    tail = _tail(tokenizer, turns[: number + 1], place)
    return start, last + _end_of_turn(tokenizer, tail, whole[last:])


def _before(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], place: str) -> str | None:
    try:
        return write_turns(tokenizer, turns, place, asks=True)
    except DataError:
        if turns:
            raise
        return None  # many templates write no conversation without turns


def _place_of_words(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], number: int, whole: str, place: str
) -> Span:
    """Return where the words of a turn are: other words are put in their place, and all around stays the same."""
    other = [replace(turn, content=MARK) if i == number else turn for i, turn in enumerate(turns)]
    marked = write_turns(tokenizer, other, place)
    left, found, right = marked.partition(MARK)
    if not found or not whole.startswith(left) or not whole.endswith(right) or len(left) + len(right) >= len(whole):
        raise _unclear(number, place)
    return len(left), len(whole) - len(right)


def _tail(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], place: str) -> str:
    """Return what the template puts after the words of the last of these turns."""
    return write_turns(tokenizer, [*turns[:-1], replace(turns[-1], content=MARK)], place).rpartition(MARK)[2]


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, tail: str, rest: str) -> int:
    """Return how many characters of `rest`, what follows an answer's words, end the turn.

    They go up to the first token that is no word. Without such a token they are what both texts begin with, in whole
    lines.

    Args:
        tokenizer: knows the tokens that are no words.
        tail: what follows if the turn is the last.
        rest: what follows here.
    """
    mark = _marks(tuple(mark_texts(tokenizer).values())).search(tail)
    if mark is not None and rest.startswith(tail[: mark.end()]):
        return mark.end()
    if rest.startswith(tail):
        return len(tail)
    same = next((i for i, (one, other) in enumerate(zip(tail, rest, strict=False)) if one != other), len(rest))
    return tail.rfind("\n", 0, same) + 1


def mark_texts(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the tokens that are no words, such as ends of turns, by id; white space is none."""
    added = {int(token): str(text) for token, text in tokenizer.added_tokens_decoder.items()}
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return {token: text for token, text in (added | special).items() if text.strip(" \t\r\n▁")}


@lru_cache(maxsize=8)
def _marks(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)")


def _check_said(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], whole: str, place: str) -> None:
    """Check that the words of all turns but the assistant's are there; some templates drop a system turn in silence.

    The assistant's words may lack the thinking of earlier turns.
    """
    for turn in turns:
        if turn.content.strip() not in whole:
            if whole == write_turns(tokenizer, [replace(turn, content=MARK) for turn in turns], place):
                raise DataError(
                    f"the chat template writes none of the words of a conversation (the first is {place}). It has to "
                    "write message['content'] of every message. Mend the file that --chat-template names, or leave it "
                    "out."
                )
            if turn.role == ASSISTANT:
                continue
            raise DataError(
                f"{place}: the chat template leaves out what the {turn.role} says ('{turn.content.strip()[:60]}'). "
                "Put it into another turn, or give another template by --chat-template FILE."
            )


def _unclear(number: int, place: str) -> DataError:
    return DataError(
        f"{place}: the chat template does not show where the words of turn {number + 1}, the assistant's, are, so they "
        "cannot be trained alone. Give another template by --chat-template FILE, or --train-on all."
    )
