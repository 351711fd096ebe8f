"""Data for a model that writes under other names is recognised at once, and how to name it is said."""

import json
from pathlib import Path

import pytest

from qvtune.errors import DataError
from qvtune.tasks.load import load_data
from qvtune.tasks.options import DataOptions

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
FOREIGN = {
    "chat of another tool": ({"id": 1, "conversations": [{"from": "human", "value": "hi"}]}, {}, "holds chats"),
    "article": ({"article": "a", "highlights": "b"}, {}, "columns 'article' and 'highlights' seem to be for a model"),
    "preference": ({"prompt": "a", "chosen": "b", "rejected": "c"}, {}, "'prompt' and 'chosen' seem to be"),
}


def load(path: Path, row: dict, **options: object) -> object:
    path.write_text("".join(json.dumps(row) + "\n" for _ in range(4)))
    return load_data(DataOptions(data=str(path), **options), seed=0)


@pytest.mark.parametrize(("row", "options", "message"), FOREIGN.values(), ids=FOREIGN)
def test_data_for_another_task(tmp_path: Path, row: dict, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path / "m.jsonl", row, **options)
    assert "--task-type completion --text-column" in str(error.value)
    assert str(tmp_path / "m.jsonl") in str(error.value)


def test_chats_of_which_some_have_more_keys(tmp_path: Path) -> None:
    rows = [{"messages": CHAT}, {"messages": CHAT, "tools": []}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"m\.jsonl, line 2: keys differ from the first row's \(messages\) in tools"):
        load_data(DataOptions(data=str(tmp_path / "m.jsonl")), seed=0)


def test_columns_that_hold_labels_are_used_when_named(tmp_path: Path) -> None:
    rows = [{"prompt": f"t{i}", "completion": "ab"[i % 2]} for i in range(8)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = DataOptions(data=str(tmp_path / "m.jsonl"), label_column="completion", text_column=["prompt"])
    assert load_data(options, seed=0).task.labels == ("a", "b")


def test_tags_beside_a_label_are_no_matter(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "ab"[i % 2], "tokens": ["t"], "ner_tags": [0]} for i in range(8)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_data(DataOptions(data=str(tmp_path / "m.jsonl")), seed=0).task.labels == ("a", "b")
