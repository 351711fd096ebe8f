"""The forms of files with conversations and completions, and what is wrong in them, with file and line."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from tiny_writer import write_rows

from qvtune.errors import ConfigError, DataError
from qvtune.tasks.causal.answers import find_answer
from qvtune.tasks.causal.completion import Completion
from qvtune.tasks.causal.conversation import Conversation, Turn, dialogue
from qvtune.tasks.examples import TextData
from qvtune.tasks.load import load_data
from qvtune.tasks.options import DataOptions
from qvtune.tasks.table import task_from_dict

HI, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
BRIEF = {"role": "system", "content": "Be brief."}
ASKED = dialogue("Hi", "Hello")


def load(path: Path, rows: list[dict[str, Any]], **options: Any) -> TextData:
    write_rows(path, rows)
    return load_data(DataOptions(data=str(path), validation_fraction=0.5, **options), 0)


def conversations(data: TextData) -> list[Conversation]:
    return [Conversation.from_text(text) for text in data.train["conversation"]]


FORMS: dict[str, tuple[dict[str, Any], dict[str, Any], Conversation]] = {
    "messages": ({"messages": [BRIEF, HI, HELLO]}, {}, Conversation((Turn("system", "Be brief."), *ASKED.turns))),
    "parts": (
        {"messages": [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in (HI, HELLO)]},
        {}, ASKED,
    ),
    "weight": (
        {"messages": [HI, HELLO | {"weight": 0}, HI, HELLO | {"weight": 1}]}, {},
        Conversation((Turn("user", "Hi"), Turn("assistant", "Hello", trains=False), *ASKED.turns)),
    ),
    "empty fields": ({"messages": [HI | {"tool_calls": None, "name": None}, HELLO]}, {}, ASKED),
    "raw": ({"prompt": "Hi", "completion": " Hello"}, {}, Conversation(prompt="Hi", completion=" Hello")),
    "no prompt": ({"prompt": "", "completion": "Hello"}, {}, Conversation(prompt="", completion="Hello")),
    "response": ({"prompt": "Hi", "response": "Hello"}, {}, Conversation(prompt="Hi", completion="Hello")),
    "lists": (
        {"prompt": [HI, HELLO, HI], "completion": [HELLO]}, {},
        Conversation((Turn("user", "Hi", False), Turn("assistant", "Hello", False), Turn("user", "Hi", False),
                      Turn("assistant", "Hello"))),
    ),
    "instruction": ({"instruction": "Hi", "output": "Hello"}, {}, ASKED),
    "empty input": ({"instruction": "Hi", "input": "", "output": "Hello"}, {}, ASKED),
    "input": ({"instruction": "Add", "input": "1 2", "output": "3"}, {}, dialogue("Add\n\n1 2", "3")),
    "instruction and answer": ({"instruction": "Hi", "answer": "Hello"}, {}, ASKED),
    "both": ({"instruction": "Hi", "output": "Hello, you.", "answer": "Hello"}, {}, dialogue("Hi", "Hello, you.")),
    "question": ({"question": "Hi", "answer": "Hello"}, {}, ASKED),
    "number": ({"question": "1+1?", "answer": 2}, {}, dialogue("1+1?", "2")),
    "capitals": ({"Question": "Hi", "Answer": "Hello"}, {}, ASKED),
    "text": ({"text": "Hi Hello"}, {"task_type": "completion"}, Conversation(prompt="", completion="Hi Hello")),
    "named": (
        {"article": "Hi", "highlights": "Hello"},
        {"task_type": "completion", "text_column": ["article"], "label_column": ["highlights"]}, ASKED,
    ),
    "named messages": ({"chat": [HI, HELLO]}, {"task_type": "completion", "text_column": ["chat"]}, ASKED),
}  # fmt: skip


@pytest.mark.parametrize(("row", "options", "expected"), FORMS.values(), ids=FORMS)
def test_forms(tmp_path: Path, row: dict[str, Any], options: dict[str, Any], expected: Conversation) -> None:
    data = load(tmp_path / "a.jsonl", [row, row], **options)
    assert isinstance(data.task, Completion)
    assert conversations(data) == [expected]
    assert any("task-type" in note or "Recognised" in note for note in data.notes) or options
    assert task_from_dict(json.loads(json.dumps(data.task.to_dict()))) == data.task
    # the same from Parquet, and as a folder of the datasets library
    pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "a.parquet")
    again = load_data(DataOptions(data=str(tmp_path / "a.parquet"), validation_fraction=0.5, **options), 0)
    assert conversations(again) == [expected]
    DatasetDict({"train": Dataset.from_list([row] * 2), "validation": Dataset.from_list([row])}).save_to_disk(
        tmp_path / "saved"
    )
    saved = load_data(DataOptions(data=str(tmp_path / "saved"), **options), 0)
    assert conversations(saved) == [expected] * 2
    assert len(saved.evaluation["validation"]) == 1


@pytest.mark.parametrize(
    "row",
    [{"text": "a", "label": "b"}, {"question": "a", "answer": "b", "label": "c"}, {"text": "a", "messages_sent": 2}],
)
def test_other_files_are_not_taken(tmp_path: Path, row: dict[str, Any]) -> None:
    options = {} if "label" in row else {"label_column": ["messages_sent"]}
    rows = [row | {"label": f"c{i % 2}"} if "label" in row else row | {"messages_sent": i % 2} for i in range(8)]
    assert load(tmp_path / "a.jsonl", rows, **options).task.kind == "classification"


BAD: dict[str, tuple[Any, str]] = {
    "text": ({"messages": "Hi"}, r"column 'messages' is text, and should be a list of messages, such as"),
    "nothing": ({"messages": []}, "column 'messages' holds no message"),
    "missing": ({"messages": None}, "column 'messages' is missing"),
    "a message of text": ({"messages": ["Hi"]}, "message 1 of 'messages' is text, and should be an object"),
    "role": ({"messages": [HI, {"role": "bot", "content": "x"}]}, "message 2 of 'messages' has the role 'bot'"),
    "developer": ({"messages": [{"role": "developer", "content": "x"}]}, "role 'developer'. Write 'system' instead"),
    "close": ({"messages": [{"role": "usr", "content": "x"}]}, r"Did you mean 'user'\? Supported are text messages"),
    "no role": ({"messages": [{"from": "human", "value": "x"}]}, "has no role; 'from' and 'value' are ShareGPT's"),
    "tool": ({"messages": [HI, {"role": "tool", "content": "x"}]}, "is a tool's, which is not supported"),
    "call": ({"messages": [HI, HELLO | {"tool_calls": [{"id": "1"}]}]}, "message 2 of 'messages' calls a tool"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, HELLO]},
        "holds a part of type 'image_url', which is not supported: images, audio and files are not",
    ),
    "no content": ({"messages": [HI, {"role": "assistant"}]}, "message 2 of 'messages' has no content"),
    "number": ({"messages": [{"role": "user", "content": 3}, HELLO]}, "has content that is a number"),
    "odd key": ({"messages": [HI | {"mood": "x"}, HELLO]}, "has 'mood', which is not supported"),
    "weight": ({"messages": [HI, HELLO | {"weight": 0.5}]}, "has the weight 0.5; it is 1, or 0"),
    "no answer": ({"messages": [HI]}, "the conversation has no turn of the assistant, so there is nothing to learn"),
    "untrained": ({"messages": [HI, HELLO | {"weight": 0}]}, "every turn of the assistant has the weight 0"),
    "empty answer": ({"messages": [HI, HELLO | {"content": " "}]}, "message 2 of 'messages' is the assistant's and em"),
    "half": ({"messages": [HI, HELLO | {"content": "\ud83d"}]}, "holds half a character"),
    "empty completion": ({"prompt": "a", "completion": ""}, "column 'completion' is empty. Give it words"),
    "null completion": ({"prompt": "a", "completion": None}, "column 'completion' is missing"),
    "empty question": ({"question": " ", "answer": "b"}, "column 'question' is empty"),
    "object": ({"instruction": "a", "output": {"x": 1}}, "column 'output' is a dict, not text"),
    "input list": ({"instruction": "a", "input": [1], "output": "b"}, "column 'input' is a list, not text"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    good = {
        "messages": {"messages": [HI, HELLO]}, "prompt": {"prompt": "a", "completion": "b"},
        "question": {"question": "a", "answer": "b"}, "instruction": {"instruction": "a", "input": "", "output": "b"},
    }[next(iter(row))]  # fmt: skip
    row = {name: row.get(name, "") for name in good}
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path / "a.jsonl", [good, row, good])
    assert f"{tmp_path}/a.jsonl, line 2" in str(error.value)


def test_a_conversation_that_ends_with_the_user(tmp_path: Path) -> None:
    rows = [{"messages": [HI, HELLO, HI]}, {"messages": [HI, HELLO]}, {"messages": [HI, HELLO, HI, HI]}]
    data = load(tmp_path / "a.jsonl", rows, validation=None)
    assert set(conversations(data)) == {ASKED}
    assert any("2 of 3 conversations end with a turn that has no answer, which is left out." in n for n in data.notes)


def test_columns_that_nobody_knows(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": "y"}] * 2
    with pytest.raises(DataError, match=r"which columns hold the conversations, .* The columns are a, b\. Name yours"):
        load(tmp_path / "a.jsonl", rows, task_type="completion")
    with pytest.raises(DataError, match=r"no column 'c'\. The columns are a, b"):
        load(tmp_path / "a.jsonl", rows, task_type="completion", text_column=["a"], label_column=["c"])


def test_options_of_writing_are_refused_for_other_tasks(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(8)]
    with pytest.raises(ConfigError, match="--train-on is for conversations and completions, and a is a classification"):
        load(tmp_path / "a.jsonl", rows, train_on="all")


def test_answers_by_pattern(tmp_path: Path) -> None:
    assert find_answer(" 4 ", None) == "4"
    assert find_answer("It is 3. No: it is 4.", r"it is (\d)") == "4"
    assert find_answer("#### 1,234", r"#### ([\d,]+)") == "1,234"
    assert find_answer("answer2", "answer[0-9]") == "answer2"
    assert find_answer("none", "[0-9]") is None
    rows = [{"question": "1+1", "answer": "It is 2"}, {"question": "1+2", "answer": "It is 3"}]
    data = load(tmp_path / "a.jsonl", rows, answer_pattern="[0-9]")
    assert {*data.train["label"], *data.evaluation["validation"]["label"]} == {"2", "3"}
    with pytest.raises(ConfigError, match=r"--answer-pattern is '\[', which is no regular expression"):
        load(tmp_path / "a.jsonl", rows, answer_pattern="[")
    with pytest.raises(DataError, match=r"line 1: --answer-pattern four finds nothing in the answer that begins"):
        load(tmp_path / "a.jsonl", rows, answer_pattern="four")
    both = [row | {"instruction": row["question"], "output": "So it is.", "answer": "2"} for row in rows]
    both = [{name: row[name] for name in ("instruction", "output", "answer")} for row in both]
    assert load(tmp_path / "a.jsonl", both, answer_pattern="[0-9]").train["label"][:] == ["2"]
