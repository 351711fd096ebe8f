"""Tokens of conversations and completions, with a label for every token that is trained and none for the others."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from qvtune.errors import DataError
from qvtune.tasks.causal.choices import ALL, COMPLETION
from qvtune.tasks.causal.conversation import ASSISTANT, USER, Conversation, Turn
from qvtune.tasks.causal.template import Span, mark_texts, write_conversation, write_turns

# What transformers' losses leave out.
UNTRAINED = -100
# Marks in the shown example, before and after what is trained.
OPENS, CLOSES = "⟦", "⟧"


class Encoded(NamedTuple):
    """Ids of an example, and for every token its own id where it is trained, or `UNTRAINED`."""

    input_ids: list[int]
    labels: list[int]


def encode(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, place: str, train_on: str = COMPLETION
) -> Encoded:
    """Return the tokens of an example, whole.

    A turn's end is trained with its words. If the template ends the last answer with no token of its own, the token
    that ends texts is added. The first token is never trained, since nothing predicts it.

    Args:
        tokenizer: has the chat template.
        conversation: the example.
        place: where it is, for messages.
        train_on: "completion" or "all".

    Raises:
        DataError: if the template refuses it, or nothing, or against the request everything, would be trained.
    """
    if conversation.is_raw:
        text = (conversation.prompt or "") + (conversation.completion or "")
        spans: list[Span] = [(len(conversation.prompt or ""), len(text))]
    elif train_on == ALL:
        text = write_turns(tokenizer, conversation.turns, place)
        spans = [(0, len(text))]
    else:
        text, spans = write_conversation(tokenizer, conversation, place)
    if train_on == ALL:
        spans = [(0, len(text))]
    ids, trained = _tokenize(tokenizer, text, spans, special=conversation.is_raw)
    if conversation.is_raw or conversation.turns[-1].is_answer or train_on == ALL:
        _end(tokenizer, ids, trained)
    trained[:1] = [False]
    if not any(trained):
        raise DataError(f"{place}: no token of it would be trained. Remove the row, or give --train-on all.")
    if train_on == COMPLETION and all(trained[1:]) and _has_prompt(conversation):
        raise DataError(
            f"{place}: every token would be trained, the prompt's too, and --train-on is completion. Give another "
            "template by --chat-template FILE, or --train-on all."
        )
    return Encoded(ids, [i if is_trained else UNTRAINED for i, is_trained in zip(ids, trained, strict=True)])


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: Sequence[Span], *, special: bool
) -> tuple[list[int], list[bool]]:
    """Return ids and whether each is trained: those with a character inside a span."""
    if not tokenizer.is_fast:
        return _tokenize_pieces(tokenizer, text, spans, special=special)
    found: Any = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    trained, number = [], 0
    for start, end in found["offset_mapping"]:
        while number < len(spans) and spans[number][1] <= start:
            number += 1
        trained.append(start < end and number < len(spans) and end > spans[number][0])
    return list(found["input_ids"]), trained


def _tokenize_pieces(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: Sequence[Span], *, special: bool
) -> tuple[list[int], list[bool]]:
    """Do the same piece by piece, for a tokenizer that does not say where its tokens are."""
    ids: list[int] = []
    trained: list[bool] = []
    done = 0
    for start, end in [*spans, (len(text), len(text))]:
        for piece, is_trained in ((text[done:start], False), (text[start:end], True)):
            own = tokenizer(piece, add_special_tokens=special and not ids).input_ids if piece else []
            ids += own
            trained += [is_trained] * len(own)
        done = end
    return ids, trained


def _end(tokenizer: PreTrainedTokenizerBase, ids: list[int], trained: list[bool]) -> None:
    """Let the last trained token be one that ends something."""
    last = max((place for place, is_trained in enumerate(trained) if is_trained), default=None)
    if last is None or ids[last] in mark_texts(tokenizer):
        return
    if ids[-1] == tokenizer.eos_token_id:  # the tokenizer added it
        trained[-1] = True
        return
    ids.append(tokenizer.eos_token_id)
    trained.append(True)


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: the one that ends texts, and the template's own end of a turn."""
    found = [tokenizer.eos_token_id]
    try:
        probe = encode(tokenizer, Conversation((Turn(USER, "a"), Turn(ASSISTANT, "b"))), "a probe")
    except DataError:
        return found
    last = next(label for label in reversed(probe.labels) if label != UNTRAINED)
    return list(dict.fromkeys([*found, last])) if last in mark_texts(tokenizer) else found


def encode_question(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, place: str) -> list[int]:
    """Return the tokens that a model is given to go on from: all before the last answer.

    Raises:
        DataError: if the template refuses it.
    """
    asked = conversation.asking()
    if asked.is_raw:
        ids = list(tokenizer(asked.prompt or "").input_ids)
        while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:  # some tokenizers end every text
            ids.pop()
    else:
        text = write_turns(tokenizer, asked.turns, place, asks=True)
        ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    if ids:
        return ids
    return [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]


def _has_prompt(conversation: Conversation) -> bool:
    return bool(conversation.prompt) if conversation.is_raw else any(not turn.is_answer for turn in conversation.turns)


def show(tokenizer: PreTrainedTokenizerBase, input_ids: Sequence[int], labels: Sequence[int]) -> str:
    """Return an example as text, with what is trained between ⟦ and ⟧."""
    parts: list[str] = []
    piece: list[int] = []

    def flush(is_trained: bool) -> None:
        if piece:
            text = str(tokenizer.decode(piece, skip_special_tokens=False, clean_up_tokenization_spaces=False))
            parts.append(f"{OPENS}{text}{CLOSES}" if is_trained else text)
            piece.clear()

    was_trained = False
    for token, label in zip(input_ids, labels, strict=True):
        if (label != UNTRAINED) != was_trained:
            flush(was_trained)
            was_trained = not was_trained
        piece.append(int(token))
    flush(was_trained)
    return "".join(parts)
