import re

import numpy as np
import pytest
from glue_folders import MNLI_HEADER, TASKS, examples, write_task

from qvtune.data.glue import GLUE, glue_task, load_tests
from qvtune.errors import DataError
from qvtune.tasks import glue

# The class names of the hub's nyu-mll/glue, in the order of their ids.
HUB_LABELS = {
    "cola": ("unacceptable", "acceptable"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not_equivalent", "equivalent"),
    "stsb": (),
    "qqp": ("not_duplicate", "duplicate"),
    "mnli": ("entailment", "neutral", "contradiction"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
    "wnli": ("not_entailment", "entailment"),
}


def test_the_nine_tasks_have_the_hubs_labels():
    assert {name: glue.make_task(name).labels for name in GLUE} == HUB_LABELS


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_read_from_the_benchmarks_files(tmp_path, name):
    write_task(tmp_path, name)
    data = glue.load_tsv(name, tmp_path)
    written = TASKS[name]
    assert examples(data.train) == written.train
    assert {split: examples(dataset) for split, dataset in data.evaluation.items()} == written.dev
    assert (data.task.name, data.task.labels, data.notes) == (f"glue/{name}", written.labels, ())
    assert data.task.text_columns == ("text", "text_pair")[: len(written.train[0][0])]
    assert data.task.kind == ("classification" if written.labels else "regression")


@pytest.mark.parametrize("name", TASKS)
def test_the_tests_of_a_task_are_read_with_their_index(tmp_path, name):
    write_task(tmp_path, name)
    found = {}
    for submission, indices, texts in load_tests(name, tmp_path):
        columns = [list(texts[c]) for c in texts.column_names]
        found[submission] = list(zip(indices, zip(*columns, strict=True), strict=True))
    assert found == TASKS[name].tests


RTE = "index\tsentence1\tsentence2\tlabel\n"
STSB = "index\tsentence1\tsentence2\tscore\n"
MALFORMED = {
    "empty": ("rte", "", ": the file is empty"),
    "unknown label": ("rte", f"{RTE}0\ta\tb\tentailment\n1\ta\tb\tneutral\n", "line 3: label 'neutral' is none of ent"),
    "line after a blank one": ("rte", f"{RTE}\n\n0\ta\tb\tx\n", "line 4: label 'x' is none of"),
    "label of another case": ("rte", f"{RTE}0\ta\tb\tEntailment\n", "line 2: label 'Entailment' is none of"),
    "missing label of MNLI": ("mnli", MNLI_HEADER + "0\t" * 11 + "-\n", "line 2: label '-' is none of entailment, neu"),
    "two short rows": (
        "rte",
        f"{RTE}0\ta\n1\ta\tb\tentailment\n2\ta\n",
        "line 2: has fewer than 4 fields, and so have 1",
    ),
    "two short rows of CoLA": ("cola", "x\t1\t\ta\nx\t1\nx\n", "line 2: has fewer than 4 fields, and so have 1 more"),
    "CoLA without tabs": ("cola", "one\ntwo\n", "line 1: has fewer than 4 fields"),
    "CoLA with a header": (
        "cola",
        "source\tlabel\tmark\tsentence\nx\t1\t\ta\n",
        "line 1: label 'label' is none of 0, 1",
    ),
    "no such column": (
        "rte",
        "index\tsentence1\tlabel\n0\ta\tentailment\n",
        "has no column 'sentence2'; its header is",
    ),
    "no label column": ("rte", "index\tsentence1\tsentence2\n0\ta\tb\n", "has no column 'label'; its header is index,"),
    "score is a word": ("stsb", f"{STSB}0\ta\tb\t5\n1\ta\tb\thigh\n", "line 3: label 'high' is not a number"),
    "score is nan": ("stsb", f"{STSB}0\ta\tb\tnan\n", "line 2: label is nan; it must be a finite number"),
    "latin-1": ("rte", RTE.encode() + b"0\tcaf\xe9\tb\tentailment\n", "line 2: byte 0xe9 is not UTF-8"),
}


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_is_refused_with_its_line(tmp_path, name, content, message):
    folder = write_task(tmp_path, name)
    (folder / "train.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"train\.tsv.*{re.escape(message)}"):
        glue.load_tsv(name, tmp_path)


def test_few_malformed_rows_are_left_out_and_told(tmp_path):
    folder = write_task(tmp_path, "qqp")
    header = TASKS["qqp"].files["train.tsv"].splitlines()[0]
    rows = [f"{i}\t1\t2\tQ{i}?\tR{i}?\t{i % 2}" for i in range(3000)]
    rows[10], rows[20] = "10\t1\t2\tQ10?", "20"
    (folder / "train.tsv").write_text("\n".join([header, *rows]) + "\n")
    data = glue.load_tsv("qqp", tmp_path)
    assert data.notes == ("train.tsv: left out 2 of 3000 rows with missing fields.",)
    assert data.train["text"][9:12] == ["Q9?", "Q11?", "Q12?"]
    assert data.train["label"][9:12] == [1, 1, 0]
    rows[15] = rows[30] = "short"
    (folder / "train.tsv").write_text("\n".join([header, *rows]) + "\n")
    with pytest.raises(DataError, match="line 12: has fewer than 6 fields, and so have 3 more rows"):
        glue.load_tsv("qqp", tmp_path)


def test_a_test_set_is_whole_or_refused(tmp_path):
    folder = write_task(tmp_path, "rte")
    (folder / "test.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n1\ta\n")
    with pytest.raises(DataError, match=r"test\.tsv: left out 1 of 2 rows .* A submission needs every row"):
        load_tests("rte", tmp_path)


def test_a_missing_folder_or_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no folder 'SST-2'.* qvtune download --task sst2 --glue-dir"):
        glue.load_tsv("sst2", tmp_path)
    folder = write_task(tmp_path, "mnli")
    (folder / "dev_mismatched.tsv").unlink()
    with pytest.raises(DataError, match=r"dev_mismatched\.tsv: no such file"):
        glue.load_tsv("mnli", tmp_path)
    (folder / "test_matched.tsv").unlink()
    with pytest.raises(DataError, match=r"test_matched\.tsv: no such file"):
        load_tests("mnli", tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("RTE", " Did you mean 'rte'?"),
        ("sst-2", " Did you mean 'sst2'?"),
        ("mnl", " Did you mean 'mnli'?"),
        ("xyz", ""),
    ],
)
def test_an_unknown_task_is_refused_with_the_nearest_name(name, hint):
    with pytest.raises(DataError, match=re.escape(f"unknown GLUE task '{name}'.{hint} The tasks are cola, sst2, mrpc")):
        glue_task(name)


SPELLED = {
    "cola": "0 1",
    "sst2": "0 1",
    "mrpc": "0 1",
    "qqp": "0 1",
    "mnli": "entailment neutral contradiction",
    "qnli": "entailment not_entailment",
    "rte": "entailment not_entailment",
    "wnli": "0 1",
}


@pytest.mark.parametrize(("name", "words"), SPELLED.items())
def test_a_submission_spells_the_labels_as_the_benchmark_does(name, words):
    spelled = words.split()
    order = [*reversed(range(len(spelled))), 0]
    scores = np.eye(len(spelled))[order] * 3 - 7
    indices = [str(10 * n + 3) for n in range(len(order))]
    lines = glue.format_submission(name, indices, scores).split("\n")
    assert lines[0] == "index\tprediction"
    assert lines[1:] == [f"{i}\t{spelled[label]}" for i, label in zip(indices, order, strict=True)] + [""]


def test_a_submission_of_scores_is_clipped_with_three_decimals():
    scores = np.array([[-0.3], [5.2], [2.34567], [4.9996], [0.0]], dtype=np.float32)
    expected = "index\tprediction\n0\t0.000\n1\t5.000\n2\t2.346\n3\t5.000\n4\t0.000\n"
    assert glue.format_submission("stsb", ["0", "1", "2", "3", "4"], scores) == expected


# Rows of the published sets; MRPC's training set has 3,668 as published and 3,667 in a copy that goes around.
REAL = {
    "cola": ((8551,), 1043, 1063, {"unacceptable": 2528, "acceptable": 6023}),
    "mrpc": ((3667, 3668), 408, 1725, None),
    "rte": ((2490,), 277, 3000, {"entailment": 1249, "not_entailment": 1241}),
    "sst2": ((67349,), 872, 1821, {"negative": 29780, "positive": 37569}),
    "stsb": ((5749,), 1500, 1379, None),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_data_is_whole(glue_dir, name):
    train, dev, test, classes = REAL[name]
    if not (glue_dir / GLUE[name].folder).is_dir():
        pytest.skip(f"{name} is not among the GLUE data here")
    data = glue.load_tsv(name, glue_dir)
    [(_, indices, texts)] = load_tests(name, glue_dir)
    assert len(data.train) in train
    assert (len(data.evaluation["validation"]), len(texts)) == (dev, test)
    assert data.notes == ()
    assert indices == [str(i) for i in range(test)]
    labels = np.array(data.train["label"])
    if classes:
        assert dict(zip(data.task.labels, np.bincount(labels).tolist(), strict=True)) == classes
    if name == "stsb":
        assert (labels.min(), labels.max()) == (0.0, 5.0)
    assert all(data.train["text"][:])


# Rows of the real data that a reader with quoting would join or strip.
LANDMARKS = {
    "cola": ("Our friends won't buy this analysis, let alone the next one we propose.", None, 1),
    "mrpc": (
        'Amrozi accused his brother , whom he called " the witness " , of deliberately distorting his evidence .',
        'Referring to him as only " the witness " , Amrozi accused his brother of deliberately distorting his '
        "evidence .",
        1,
    ),
    "rte": (
        "No Weapons of Mass Destruction Found in Iraq Yet.",
        "Weapons of Mass Destruction Found in Iraq.",
        1,
    ),
    "sst2": ("hide new secretions from the parental units ", None, 0),
    "stsb": ("A plane is taking off.", "An air plane is taking off.", 5.0),
}


@pytest.mark.parametrize("name", LANDMARKS)
def test_the_first_real_row_is_read_as_it_stands(glue_dir, name):
    if not (glue_dir / GLUE[name].folder).is_dir():
        pytest.skip(f"{name} is not among the GLUE data here")
    row = glue.load_tsv(name, glue_dir).train[0]
    assert (row["text"], row.get("text_pair"), row["label"]) == LANDMARKS[name]
