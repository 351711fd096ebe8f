"""`Conversation`: the turns of an example, or a raw prompt with its completion."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)


@dataclass(frozen=True)
class Turn:
    """A turn: who speaks, the words, and whether they are trained if they are the assistant's."""

    role: str
    content: str
    trains: bool = True

    @property
    def is_answer(self) -> bool:
        """Whether the assistant speaks and its words are trained."""
        return self.role == ASSISTANT and self.trains

    def message(self) -> dict[str, str]:
        """Return the turn as chat templates take it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Conversation:
    """One example.

    Attributes:
        turns: who says what; empty for raw text.
        prompt, completion: raw text, which no template changes; None if there are turns.
    """

    turns: tuple[Turn, ...] = ()
    prompt: str | None = None
    completion: str | None = None

    @property
    def is_raw(self) -> bool:
        """Whether it is raw text."""
        return self.prompt is not None

    @property
    def answer(self) -> str:
        """The last words of the assistant, or the completion; empty if there are none."""
        if self.is_raw:
            return self.completion or ""
        return self.turns[-1].content if self.turns and self.turns[-1].role == ASSISTANT else ""

    def asking(self) -> "Conversation":
        """Return it without its last answer, as a model is given it."""
        if self.is_raw:
            return replace(self, completion=None)
        return replace(self, turns=self.turns[:-1]) if self.answer else self

    def shown(self) -> str:
        """Return the words before the last answer, for people."""
        if self.is_raw:
            return self.prompt or ""
        return "\n".join(f"{turn.role}: {turn.content}" for turn in self.asking().turns)

    def to_text(self) -> str:
        """Return it as JSON, which a column of a data set can hold."""
        if self.is_raw:
            return json.dumps({"prompt": self.prompt, "completion": self.completion}, ensure_ascii=False)
        return json.dumps([[turn.role, turn.content, turn.trains] for turn in self.turns], ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> "Conversation":
        """Read what `to_text` returned."""
        stored = json.loads(text)
        return cls(**stored) if isinstance(stored, dict) else cls(tuple(Turn(*turn) for turn in stored))


def dialogue(question: str, answer: str | None = None, system: str | None = None) -> Conversation:
    """Return a question, and its answer if there is one, as turns."""
    turns = [Turn(SYSTEM, system)] if system else []
    turns.append(Turn(USER, question))
    return Conversation((*turns, *([Turn(ASSISTANT, answer)] if answer else [])))


def messages_of(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Return turns as chat templates take them."""
    return [turn.message() for turn in turns]
