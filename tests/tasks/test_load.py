import csv
from collections import Counter

import pytest
from glue_folders import TASKS, examples, write_task

from qvtune.data.glue import glue_name
from qvtune.errors import DataError
from qvtune.tasks.load import load_data
from qvtune.tasks.options import DataOptions


def write(path, labels, columns=("text", "label"), prefix="t"):
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = [[f"{prefix}{i}", label] for i, label in enumerate(labels)]
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture
def reviews(tmp_path):
    """80 rows of class a and 20 of class b, mixed."""
    return write(tmp_path / "reviews.csv", ["b" if i % 5 == 2 else "a" for i in range(100)])


def load(path, seed=0, **options):
    return load_data(DataOptions(data=str(path), **options), seed=seed)


def rows_of(*datasets):
    return [
        (text, label) for dataset in datasets for text, label in zip(dataset["text"], dataset["label"], strict=True)
    ]


def classes(dataset):
    return dict(Counter(dataset["label"]))


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.5, 0.9])
def test_the_held_out_part_is_stratified_and_apart_from_training(reviews, fraction):
    data = load(reviews, validation_fraction=fraction)
    validation = data.evaluation["validation"]
    size = round(100 * fraction)
    assert classes(validation) == {0: size * 4 // 5, 1: size // 5}
    everything = rows_of(data.train, validation)
    assert len(everything) == 100
    assert set(everything) == {(f"t{i}", int(i % 5 == 2)) for i in range(100)}
    assert f"The validation set is {size} examples held out of {reviews} (stratified, seed 0)." in data.notes
    assert "Guessed from the column names: text is 'text', label is 'label'." in data.notes


def test_the_seed_chooses_what_is_held_out(reviews):
    first, same, other = (load(reviews, seed).evaluation["validation"]["text"][:] for seed in (1, 1, 2))
    assert first == same
    assert set(first) != set(other)
    assert first != [f"t{i}" for i in range(10)]


def test_a_class_with_one_member_stays_in_training(tmp_path):
    path = write(tmp_path / "m.csv", ["a"] * 10 + ["b"] * 9 + ["rare"])
    for seed in range(5):
        data = load(path, seed, validation_fraction=0.2)
        assert data.task.labels == ("a", "b", "rare")
        assert classes(data.train)[2] == 1
        assert len(data.evaluation["validation"]) == 4


TINY = {
    "two rows": (["a", "b"], 0.1, (1, 1)),
    "two rows, much held out": (["a", "b"], 0.9, (1, 1)),
    "three rows": (["a", "b", "a"], 0.1, (2, 1)),
    "four rows": (["a", "b", "a", "b"], 0.5, (2, 2)),
    "three numbers": (["0.5", "1.5", "2.5"], 0.4, (2, 1)),
}


@pytest.mark.parametrize(("labels", "fraction", "sizes"), TINY.values(), ids=TINY)
def test_tiny_sets_are_divided_with_a_row_on_each_side(tmp_path, labels, fraction, sizes):
    data = load(write(tmp_path / "m.csv", labels), validation_fraction=fraction)
    assert (len(data.train), len(data.evaluation["validation"])) == sizes
    assert len(set(rows_of(data.train, data.evaluation["validation"]))) == len(labels)


def test_two_of_each_class_are_halved(tmp_path):
    data = load(write(tmp_path / "m.csv", ["a", "b", "a", "b"]), validation_fraction=0.5)
    assert classes(data.train) == classes(data.evaluation["validation"]) == {0: 1, 1: 1}


def test_one_row_is_refused(tmp_path):
    with pytest.raises(DataError, match="every row has the label 'a'"):
        load(write(tmp_path / "m.csv", ["a"]))


def test_one_row_with_nothing_to_hold_out_is_refused(tmp_path):
    path = write(tmp_path / "m.csv", ["a", "b"])
    with pytest.raises(DataError, match="there is one training example; at least two are needed"):
        load(path, validation_fraction=0.5, tune_fraction=0.5)


def test_a_regression_is_divided_without_classes(tmp_path):
    data = load(write(tmp_path / "m.csv", [f"{i}.5" for i in range(20)]), validation_fraction=0.25)
    assert (data.task.kind, len(data.train), len(data.evaluation["validation"])) == ("regression", 15, 5)
    assert set(rows_of(data.train, data.evaluation["validation"])) == {(f"t{i}", i + 0.5) for i in range(20)}
    assert any(note.endswith("(seed 0).") and "held out" in note for note in data.notes)


def test_a_validation_file_is_taken_whole_and_nothing_is_held_out(reviews, tmp_path):
    file = write(tmp_path / "held.csv", ["b", "a", "b"], prefix="v")
    data = load(reviews, validation=file)
    assert len(data.train) == 100
    assert rows_of(data.evaluation["validation"]) == [("v0", 1), ("v1", 0), ("v2", 1)]
    assert not any("held out" in note for note in data.notes)


def test_a_validation_file_may_be_of_another_format_and_name_its_columns_otherwise(reviews, tmp_path):
    file = tmp_path / "held.jsonl"
    file.write_text('{"review": "v0", "sentiment": "b"}\n')
    data = load(reviews, validation=file)
    assert rows_of(data.evaluation["validation"]) == [("v0", 1)]
    assert f"{file}: Guessed from the column names: text is 'review', label is 'sentiment'." in data.notes


def test_columns_named_for_training_are_used_in_the_validation_file(tmp_path):
    names = ("body", "topic")
    train, file = write(tmp_path / "m.csv", ["a", "b"], names), write(tmp_path / "v.csv", ["b"], names, prefix="v")
    data = load(train, validation=file, text_column=["body"], label_column="topic")
    assert rows_of(data.evaluation["validation"]) == [("v0", 1)]
    assert not any("Guessed" in note for note in data.notes)
    assert (data.task.text_columns, data.task.label_column) == (("body",), "topic")


def test_a_guessed_regression_is_told_and_explained(tmp_path):
    file = write(tmp_path / "m.csv", ["1", "2.5", "3"] * 4)
    data = load(file)
    assert data.task.kind == "regression"
    (said,) = [note for note in data.notes if "regression" in note and "Guessed" in note]
    assert f"such as 2.5 ({file}, line 3), so this is a regression" in said
    assert "give --task-type classification" in said
    assert not any("Guessed from the labels" in note for note in load(file, task_type="regression").notes)


def test_labels_that_python_alone_reads_as_numbers_are_classes(tmp_path):
    data = load(write(tmp_path / "m.csv", ["1_0", "1_1", "2_0"] * 8))
    assert (data.task.kind, data.task.labels) == ("classification", ("1_0", "1_1", "2_0"))


VALIDATION = {
    "unseen label": (
        "text,label\nx,a\ny,z\n",
        r"line 3: label 'z' does not occur in the training data, which has a, b",
    ),
    "missing label": ("text,label\nx,a\ny,\n", "line 3: column 'label' is empty"),
    "no such column": ("summary,label,topic\nx,a,b\n", "which column is the text"),
    "two texts for one": (
        "sentence1,sentence2,label\nx,y,a\n",
        "text is sentence1 and sentence2, but the training data",
    ),
    "no rows": ("text,label\n", "a header and no rows"),
}


@pytest.mark.parametrize(("content", "message"), VALIDATION.values(), ids=VALIDATION)
def test_a_validation_file_that_does_not_fit_is_refused(reviews, tmp_path, content, message):
    file = tmp_path / "held.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=rf"held\.csv.*{message}"):
        load(reviews, validation=file)


def test_a_validation_file_lacking_the_second_text_is_refused(tmp_path):
    train, file = tmp_path / "m.csv", tmp_path / "held.csv"
    train.write_text("sentence1,sentence2,label\nx,y,a\nz,w,b\n")
    file.write_text("sentence1,label\nx,a\n")
    with pytest.raises(DataError, match=r"held\.csv: no column 'sentence2'"):
        load(train, validation=file)


def test_a_tuning_split_is_drawn_from_training_alone(reviews):
    plain = load(reviews, validation_fraction=0.2)
    data = load(reviews, validation_fraction=0.2, tune_fraction=0.25)
    assert list(data.evaluation) == ["validation", "tuning"]
    assert rows_of(data.evaluation["validation"]) == rows_of(plain.evaluation["validation"])
    assert classes(data.evaluation["tuning"]) == {0: 16, 1: 4}
    assert classes(data.train) == {0: 48, 1: 12}
    assert set(rows_of(data.train, data.evaluation["tuning"])) == set(rows_of(plain.train))
    assert "The checkpoint is chosen on 20 examples held out of training." in data.notes


def test_samples_are_stratified_seeded_and_told(reviews):
    options = {"validation_fraction": 0.5, "max_train_samples": 20, "max_eval_samples": 10}
    whole, data = load(reviews, validation_fraction=0.5), load(reviews, **options)
    assert classes(data.train) == {0: 16, 1: 4}
    assert classes(data.evaluation["validation"]) == {0: 8, 1: 2}
    assert set(rows_of(data.train)) < set(rows_of(whole.train))
    assert set(rows_of(data.evaluation["validation"])) < set(rows_of(whole.evaluation["validation"]))
    assert data.train["text"][:] != whole.train["text"][:20]
    assert "Drew 20 of 50 training examples (seed 0)." in data.notes
    assert "Drew 10 of 50 validation examples (seed 0)." in data.notes
    assert rows_of(load(reviews, **options).train) == rows_of(data.train)
    assert rows_of(load(reviews, 1, **options).train) != rows_of(data.train)


def test_the_seed_chooses_the_sample_of_a_training_set_that_is_not_divided(reviews, tmp_path):
    file = write(tmp_path / "held.csv", ["a", "b"] * 20, prefix="v")
    options = {"validation": file, "max_train_samples": 20, "max_eval_samples": 10}
    first, same, other = (load(reviews, seed, **options) for seed in (0, 0, 1))
    assert rows_of(first.train) == rows_of(same.train) != rows_of(other.train)
    held = [rows_of(data.evaluation["validation"]) for data in (first, same, other)]
    assert held[0] == held[1] != held[2]


def test_samples_larger_than_the_data_change_nothing_and_are_not_told(reviews):
    whole, data = load(reviews), load(reviews, max_train_samples=90, max_eval_samples=10)
    assert rows_of(data.train) == rows_of(whole.train)
    assert not any("Drew" in note for note in data.notes)


def test_the_tuning_split_is_sampled_too(reviews):
    data = load(reviews, validation_fraction=0.2, tune_fraction=0.5, max_eval_samples=5)
    assert {split: classes(dataset) for split, dataset in data.evaluation.items()} == {
        "validation": {0: 4, 1: 1},
        "tuning": {0: 4, 1: 1},
    }
    assert "Drew 5 of 40 tuning examples (seed 0)." in data.notes


def test_every_mnli_set_is_sampled_and_glue_can_be_tuned(tmp_path):
    write_task(tmp_path, "mnli")
    data = load("glue/mnli", glue_dir=tmp_path, tune_fraction=0.3, max_eval_samples=1)
    assert list(data.evaluation) == ["validation_matched", "validation_mismatched", "tuning"]
    assert sorted(examples(data.train) + examples(data.evaluation["tuning"])) == sorted(TASKS["mnli"].train)


def test_the_name_of_a_glue_task():
    assert [glue_name(data) for data in ("glue/rte", "glue/x/y", "rte", "my/glue/rte", "glue")] == [
        "rte",
        "x/y",
        None,
        None,
        None,
    ]


MISSING = {
    "file": ("{}/none.csv", "none.csv: no such file"),
    "file of another suffix": ("{}/none.txt", "none.txt: no such file"),
    "folder that was not saved": ("{}", "is a folder, not a file"),
    "relative": ("./none.parquet", "none.parquet: no such file"),
    "glue task": ("glue/rtee", "unknown GLUE task 'rtee'. Did you mean 'rte'"),
    "packaged": ("pkg:imbd", "unknown packaged data 'pkg:imbd'. Did you mean 'imdb'"),
}


@pytest.mark.parametrize(("data", "message"), MISSING.values(), ids=MISSING)
def test_what_is_not_there_is_refused_without_asking_the_hub(tmp_path, monkeypatch, data, message):
    monkeypatch.setattr("qvtune.data.hub.load_hub", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(DataError, match=message):
        load(data.format(tmp_path))


def test_a_missing_glue_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none: no such folder\. Fetch GLUE into it with: qvtune download --glue-dir"):
        load("glue/rte", glue_dir=tmp_path / "none")
    with pytest.raises(DataError, match="has no folder 'RTE'"):
        load("glue/rte", glue_dir=tmp_path)
