"""The forms in which files hold conversations and completions, by the names of their columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qvtune.data.records import check_characters
from qvtune.errors import DataError
from qvtune.tasks.causal.conversation import ASSISTANT, Conversation, Turn, dialogue
from qvtune.tasks.causal.messages import check_roles, read_turns

MESSAGES, TEXT = "messages", "text"
# The question's column and the names of the answer's, the first that is there.
RAW = (("prompt", ("completion", "response")),)
PAIRS = (
    ("instruction", ("output", "answer", "response", "completion")),
    ("question", ("answer", "response")),
)
# The column that some instructions have beside the question.
MORE = "input"
# The column that may say in few words what the answer comes to.
FINAL = "answer"
KNOWN = (
    "messages; prompt and completion; instruction, input and output; question and answer; or text with --task-type "
    "completion"
)


@dataclass(frozen=True)
class Form:
    """A form and the columns that hold it.

    Attributes:
        question: column of the messages, the prompt or the question.
        answer: column of the answer; None if messages or text hold it.
        more: column with the input of an instruction, if there is one.
        final: column of the short answer beside the long one, if there is one.
        is_raw: whether strings are taken as they are, without a chat template.
    """

    question: str
    answer: str | None = None
    more: str | None = None
    final: str | None = None
    is_raw: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the questions."""
        return (self.question, *([self.more] if self.more else []))

    def describe(self) -> str:
        """Say which columns it takes."""
        if self.answer is None:
            return f"the texts are '{self.question}'" if self.is_raw else f"the conversations are '{self.question}'"
        asked = " and ".join(f"'{name}'" for name in self.columns)
        final = f", in short '{self.final}'" if self.final else ""
        raw = ", both as they are, without a chat template" if self.is_raw else ""
        return f"the prompt is {asked}, the completion '{self.answer}'{final}{raw}"


def find_form(columns: Sequence[str]) -> Form | None:
    """Return the form that columns have by their names; plain text has none, since any file may have such a column."""
    lower = {name.lower(): name for name in columns}
    if MESSAGES in lower:
        return Form(lower[MESSAGES])
    for question, answers in (*RAW, *PAIRS):
        answer = next((lower[name] for name in answers if name in lower), None)
        if question in lower and answer is not None:
            more = lower.get(MORE) if question == "instruction" else None
            final = lower.get(FINAL) if answer.lower() != FINAL else None
            return Form(lower[question], answer, more, final, _is_raw(question, answer))
    return None


def named_form(
    columns: Sequence[str], texts: Sequence[str] | None, labels: Sequence[str] | None, first: Callable[[str], Any]
) -> Form | None:
    """Return the form of columns that the user named, or the one that is found where none is named.

    Args:
        columns: names of all columns.
        texts: the column of the question, and that of an input beside it.
        labels: the column of the answer, and that of the short answer; or the question's, if it holds both.
        first: gives the first cell of a column.
    """
    found = find_form(columns)
    if not texts and not labels:
        plain = next((name for name in columns if name.lower() == TEXT), None)
        return found or (Form(plain, is_raw=True) if plain else None)
    if not texts and found is None:
        return None
    asked = tuple(texts) if texts else found.columns if found else ()
    answers = tuple(labels or ())
    if not answers or answers == asked[:1]:
        if found is not None and found.question == asked[0]:
            return found
        return Form(asked[0], is_raw=not isinstance(first(asked[0]), (list, tuple)))
    return Form(asked[0], answers[0], (*asked, None)[1], (*answers, None)[1], _is_raw(asked[0], answers[0]))


def _is_raw(question: str, answer: str) -> bool:
    return any(question.lower() == name and answer.lower() in answers for name, answers in RAW)


@dataclass(frozen=True)
class Read:
    """Conversations by row, what each comes to in short where the file says so, and a sentence about odd ends."""

    conversations: list[Conversation]
    finals: list[str | None]
    note: str | None


def read_form(form: Form, column: Callable[[str], list[Any]], places: Sequence[str]) -> Read:
    """Read the rows of a form. What nobody answers at the end of a conversation is left out.

    Args:
        form: the columns.
        column: gives the cells of a column.
        places: where each row is.

    Raises:
        DataError: if a cell is not what the form says, or there is nothing to learn in a row.
    """
    names = [name for name in (form.question, form.answer, form.more, form.final) if name is not None]
    cells = {name: column(name) for name in names}
    conversations, finals, left_out = [], [], 0
    for row, place in enumerate(places):
        values = {name: cells[name][row] for name in names}
        for name, value in values.items():
            check_characters(name, value, place)
        found = _read_row(form, values, place)
        if not found.is_raw:
            check_roles(found.turns, place)
            end = max(number for number, turn in enumerate(found.turns, 1) if turn.role == ASSISTANT)
            left_out += end < len(found.turns)
            found = Conversation(found.turns[:end])
        conversations.append(found)
        finals.append(None if form.final is None else _text(values[form.final], form.final, place))
    note = f"{left_out:,} of {len(places):,} conversations end with a turn that has no answer, which is left out."
    return Read(conversations, finals, note if left_out else None)


def _read_row(form: Form, values: dict[str, Any], place: str) -> Conversation:
    asked = values[form.question]
    if form.answer is None:
        if not form.is_raw:
            return Conversation(read_turns(asked, form.question, place))
        return Conversation(prompt="", completion=_text(asked, form.question, place))
    answer = values[form.answer]
    if isinstance(asked, (list, tuple)) or isinstance(answer, (list, tuple)):
        return _read_lists(form, asked, answer, place)
    question = _question(form, asked, values[form.more] if form.more else None, place)
    words = _text(answer, form.answer, place)
    return Conversation(prompt=question, completion=words) if form.is_raw else dialogue(question, words)


def _read_lists(form: Form, asked: Any, answer: Any, place: str) -> Conversation:
    """Read a prompt and a completion that are lists of messages: the words of the completion alone are trained."""
    assert form.answer is not None
    before = read_turns(asked, form.question, place)
    after = read_turns(answer, form.answer, place)
    return Conversation((*(Turn(turn.role, turn.content, trains=False) for turn in before), *after))


def read_questions(form: Form, column: Callable[[str], list[Any]], places: Sequence[str]) -> list[Conversation]:
    """Read what a model is to answer; the last answer of a conversation that has one is left out.

    Raises:
        DataError: if a cell is neither text nor a list of messages.
    """
    found = []
    more = column(form.more) if form.more else [None] * len(places)
    for asked, other, place in zip(column(form.question), more, places, strict=True):
        check_characters(form.question, asked, place)
        if isinstance(asked, (list, tuple)):
            found.append(Conversation(read_turns(asked, form.question, place)).asking())
            continue
        question = _question(form, asked, other, place)
        found.append(Conversation(prompt=question) if form.is_raw else dialogue(question))
    return found


def _question(form: Form, asked: Any, more: Any, place: str) -> str:
    question = _text(asked, form.question, place, may_be_empty=form.is_raw)
    if form.more is None or more is None or not str(more).strip():
        return question
    return f"{question}\n\n{_text(more, form.more, place)}"


def _text(value: Any, name: str, place: str, *, may_be_empty: bool = False) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        what = "missing" if value is None else f"a {type(value).__name__}, not text"
        raise DataError(f"{place}: column '{name}' is {what}. Correct or remove that row.")
    if not value.strip() and not may_be_empty:
        raise DataError(f"{place}: column '{name}' is empty. Give it words, or remove the row.")
    return value
