"""Files for a task that was learned: GLUE's own columns, labels and files, and other names of columns."""

from dataclasses import replace
from pathlib import Path

import pytest
from glue_folders import TASKS, write_task

from qvtune.data.glue import GLUE
from qvtune.errors import ConfigError, DataError
from qvtune.tasks.classification import Classification
from qvtune.tasks.glue import make_task
from qvtune.tasks.matching import labelled, read_matching, same_classes
from qvtune.tasks.task import Task

OWN = Classification("mine", ("bad", "good"), "classes", "accuracy", ("review",), "stars")


def read(task: Task, path: Path, text_columns: list[str] | None = None) -> list[tuple[tuple[str, ...], float]]:
    table, texts = read_matching(task, path, text_columns)
    dataset, _ = labelled(task, table, texts)
    columns = [dataset[name] for name in ("text", "text_pair") if name in dataset.column_names]
    return list(zip(zip(*columns, strict=True), dataset["label"], strict=True))


@pytest.mark.parametrize("name", TASKS)
def test_the_benchmarks_own_files_are_read(tmp_path: Path, name: str) -> None:
    folder = write_task(tmp_path, name)
    task, written = make_task(name), TASKS[name]
    assert read(task, folder / "train.tsv") == written.train
    for file, rows in zip(GLUE[name].dev, written.dev.values(), strict=True):
        assert read(task, folder / file) == rows
    for file, rows in zip(GLUE[name].test, written.tests.values(), strict=True):
        table, texts = read_matching(task, folder / file, None)
        assert list(zip(*map(table.column, texts), strict=True)) == [texts for _, texts in rows]


FILES = {
    "the run's own names": ("rte", "text,text_pair,label\na,b,entailment\nc,d,not_entailment\n", [0, 1]),
    "the benchmark's": ("rte", "sentence1,sentence2,label\na,b,entailment\nc,d,not_entailment\n", [0, 1]),
    "those of QNLI for RTE": ("rte", "question,sentence,label\na,b,entailment\nc,d,not_entailment\n", [0, 1]),
    "the hub's numbers": ("rte", "sentence1,sentence2,label\na,b,0\nc,d,1\n", [0, 1]),
    "the hub's columns": ("mnli", "premise,hypothesis,label\na,b,neutral\nc,d,contradiction\n", [1, 2]),
    "names for numbers": ("qqp", "question1,question2,is_duplicate\na,b,duplicate\nc,d,0\n", [1, 0]),
    "scores": ("stsb", "sentence1,sentence2,score\na,b,2.5\nc,d,5\n", [2.5, 5.0]),
    "scores of the hub": ("stsb", "sentence1,sentence2,label\na,b,2.5\nc,d,5\n", [2.5, 5.0]),
    "one text": ("cola", "sentence,label\na,1\nc,unacceptable\n", [1, 0]),
}


@pytest.mark.parametrize(("name", "content", "labels"), FILES.values(), ids=FILES)
def test_names_of_glue(tmp_path: Path, name: str, content: str, labels: list[float]) -> None:
    (tmp_path / "m.csv").write_text(content)
    found = read(make_task(name), tmp_path / "m.csv")
    assert [label for _, label in found] == labels
    assert [texts for texts, _ in found] == [("a", "b"), ("c", "d")][:2] if len(found[0][0]) == 2 else [("a",), ("c",)]


def test_labels_keep_the_order_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("sentence1,sentence2,label\na,b,0\nc,d,not_entailment\n")
    task = replace(make_task("rte"), labels=("not_entailment", "entailment"))
    assert [label for _, label in read(task, tmp_path / "m.csv")] == [1, 0]


def test_numbers_in_place_of_words_are_told(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("sentence1,sentence2,label\na,b,0\nc,d,1\n")
    table, texts = read_matching(make_task("rte"), tmp_path / "m.csv", None)
    assert labelled(make_task("rte"), table, texts)[1] == [
        "Labels that are numbers are read as on the hub: 0 is entailment, 1 is not_entailment."
    ]
    assert labelled(make_task("wnli"), table, texts)[1] == []  # whose own files have numbers


def test_named_columns(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("b,a,sentence1,sentence2,label\n1,2,3,4,entailment\n")
    assert read(make_task("rte"), tmp_path / "m.csv", ["a", "b"])[0][0] == ("2", "1")
    (tmp_path / "own.csv").write_text("body,review,stars\nx,y,good\n")
    assert read(OWN, tmp_path / "own.csv") == [(("y",), 1)]
    assert read(OWN, tmp_path / "own.csv", ["body"]) == [(("x",), 1)]


REFUSED = {
    "no such columns": ("rte", "a,b,label\n1,2,entailment\n", None, "no column 'text', which the run was trained on, "
    "nor 'sentence1' and 'sentence2' or 'question' and 'sentence'. .*Name yours: --text-column NAME"),
    "misspelled": ("rte", "a,bee,label\n1,2,entailment\n", ["a", "be"], "has no column 'be'.*Did you mean 'bee'"),
    "one for two": ("rte", "a,b,label\n1,2,entailment\n", ["a"], "two texts, so name two columns"),
    "twice": ("rte", "a,b,label\n1,2,entailment\n", ["a", "a"], "two texts, so name two columns"),
    "two for one": ("sst2", "a,b,label\n1,2,0\n", ["a", "b"], "one text, so name one column"),
    "unknown label": ("rte", "sentence1,sentence2,label\na,b,neutral\n", None, "line 2: label 'neutral' is none of"),
    "hidden label": ("rte", "sentence1,sentence2,label\na,b,-1\n", None, "m.csv, line 2: label '-1' is none of"),
    "no label": ("stsb", "sentence1,sentence2\na,b\n", None, "no column 'label', which the run .*, nor 'score'"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "columns", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, name: str, content: str, columns: list[str] | None, message: str
) -> None:
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises((DataError, ConfigError), match=message):
        read(make_task(name), tmp_path / "m.csv", columns)


def test_which_tasks_have_the_same_classes() -> None:
    alike = {(a, b) for a in GLUE for b in GLUE if a < b and same_classes(make_task(a), make_task(b))}
    assert alike == {("qnli", "rte"), ("qnli", "wnli"), ("rte", "wnli")}
    assert not same_classes(make_task("stsb"), make_task("stsb"))  # numbers are not the same because they are numbers
