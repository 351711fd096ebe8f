import time

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from glue_folders import TASKS, examples

from qvtune.data import hub
from qvtune.errors import DataError
from qvtune.tasks import glue
from qvtune.tasks.load import from_splits, load_data
from qvtune.tasks.options import DataOptions

# Columns of nyu-mll/glue on the hub.
HUB_COLUMNS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}


def labelled(texts, labels, names=("sad", "glad")):
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


def glue_splits(name):
    written, columns = TASKS[name], HUB_COLUMNS[name]
    label = ClassLabel(names=list(written.labels)) if written.labels else Value("float32")

    def split(rows):
        cells = {column: [texts[i] for texts, _ in rows] for i, column in enumerate(columns)}
        cells |= {"label": [value for _, value in rows], "idx": list(range(len(rows)))}
        features = {column: Value("string") for column in columns} | {"label": label, "idx": Value("int32")}
        return Dataset.from_dict(cells, features=Features(features))

    return DatasetDict({"train": split(written.train)} | {name: split(rows) for name, rows in written.dev.items()})


@pytest.mark.parametrize("name", TASKS)
def test_glue_in_the_hubs_columns_equals_glue_from_its_files(tmp_path, name):
    glue_splits(name).save_to_disk(tmp_path / "saved")
    data = load_data(DataOptions(data=f"glue/{name}", glue_dir=tmp_path / "saved"), seed=0)
    expected = [(texts, pytest.approx(value)) for texts, value in TASKS[name].train]
    assert examples(data.train) == expected
    assert {split: examples(dataset) for split, dataset in data.evaluation.items()} == TASKS[name].dev
    assert (data.task.name, data.task.labels) == (f"glue/{name}", TASKS[name].labels)


def test_glue_dir_may_hold_one_saved_folder_per_task(tmp_path):
    for name in ("rte", "cola"):
        glue_splits(name).save_to_disk(tmp_path / name)
    for name in ("rte", "cola"):
        data = load_data(DataOptions(data=f"glue/{name}", glue_dir=tmp_path), seed=0)
        assert examples(data.train) == TASKS[name].train


def test_saved_glue_without_a_split_or_column_is_refused(tmp_path):
    splits = glue_splits("mnli")
    with pytest.raises(
        DataError, match="glue/mnli: has no split 'validation_mismatched', only train, validation_match"
    ):
        glue.load_splits("mnli", DatasetDict({s: d for s, d in splits.items() if s != "validation_mismatched"}))
    with pytest.raises(DataError, match="glue/rte, train: has no column 'sentence1'"):
        glue.load_splits("rte", glue_splits("qqp"))


def test_a_saved_dictionary_keeps_its_class_names_and_validation_split(tmp_path):
    splits = DatasetDict(train=labelled(["a", "b", "c"], [1, 0, 1]), validation=labelled(["d"], [1]))
    splits.save_to_disk(tmp_path / "mine")
    data = load_data(DataOptions(data=str(tmp_path / "mine")), seed=0)
    assert data.task.name == "mine"
    assert [data.task.labels[i] for i in data.train["label"]] == ["glad", "sad", "glad"]
    assert [data.task.labels[i] for i in data.evaluation["validation"]["label"]] == ["glad"]
    assert list(data.evaluation) == ["validation"]
    assert "The validation set is the split 'validation'." in data.notes


def test_a_single_saved_data_set_is_the_training_set(tmp_path):
    labelled([f"t{i}" for i in range(10)], [0, 1] * 5).save_to_disk(tmp_path / "one")
    assert hub.is_saved_folder(tmp_path / "one")
    assert not hub.is_saved_folder(tmp_path)
    data = load_data(DataOptions(data=str(tmp_path / "one"), validation_fraction=0.2), seed=0)
    assert sorted(data.train["text"][:] + data.evaluation["validation"]["text"][:]) == [f"t{i}" for i in range(10)]
    assert len(data.evaluation["validation"]) == 2


SPLITS = {
    "hidden test labels": ({"test": [-1, -1]}, None),
    "test with labels": ({"test": [0, 1]}, "test"),
    "dev before test": ({"test": [0, 1], "dev": [1, 0]}, "dev"),
    "validation before dev": ({"dev": [1, 0], "validation": [0, 0]}, "validation"),
    "hidden validation, open test": ({"validation": [-1, -1], "test": [1, 1]}, "test"),
    "other names": ({"extra": [0, 1]}, None),
}


@pytest.mark.parametrize(("others", "chosen"), SPLITS.values(), ids=SPLITS)
def test_the_validation_split_is_one_with_labels(others, chosen):
    sets = {split: labelled([f"{split} a", f"{split} b"], labels) for split, labels in others.items()}
    splits = DatasetDict({"train": labelled(["a", "b"], [0, 1])} | sets)
    train, validation = from_splits(DataOptions(data="mine"), splits, "mine")
    notes = train.notes
    if chosen is None:
        assert validation is None
        assert not any("validation" in note for note in notes)
    else:
        assert validation.texts == ([f"{chosen} a", f"{chosen} b"],)
        assert f"The validation set is the split '{chosen}'." in notes


def test_a_test_split_without_labels_is_not_used():
    unlabelled = Dataset.from_dict({"text": ["c"]})
    splits = DatasetDict(train=labelled(["a", "b"], [0, 1]), test=unlabelled)
    assert from_splits(DataOptions(data="mine"), splits, "mine")[1] is None


def test_a_named_validation_file_is_used_and_no_split_is_claimed(tmp_path):
    splits = DatasetDict(train=labelled(["a", "b"], [0, 1]), validation=labelled(["d"], [1]))
    splits.save_to_disk(tmp_path / "mine")
    file = tmp_path / "held.csv"
    file.write_text("text,label\nmine,sad\n")
    data = load_data(DataOptions(data=str(tmp_path / "mine"), validation=file), seed=0)
    assert data.evaluation["validation"]["text"][:] == ["mine"]
    assert not any("split" in note for note in data.notes)


def test_rows_of_a_saved_folder_without_label_are_refused():
    splits = DatasetDict(train=labelled(["a", "b", "c"], [0, 1, -1]))
    with pytest.raises(DataError, match=r"^mine, train, row 3: column 'label' is empty"):
        from_splits(DataOptions(data="mine"), splits, "mine")


def test_a_dictionary_without_training_split_is_refused():
    with pytest.raises(DataError, match="mine: has no split 'train', only test"):
        from_splits(DataOptions(data="mine"), DatasetDict(test=labelled(["a"], [0])), "mine")


DAMAGE = {
    "arrow file": lambda folder: next(folder.glob("*.arrow")).write_bytes(b"xx"),
    "missing arrow file": lambda folder: next(folder.glob("*.arrow")).unlink(),
    "broken state": lambda folder: (folder / "state.json").write_text("{"),
    "empty state": lambda folder: (folder / "state.json").write_text("{}"),
    "no info": lambda folder: (folder / "dataset_info.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_saved_folder_is_refused(tmp_path, damage):
    labelled(["a", "b"], [0, 1]).save_to_disk(tmp_path / "one")
    damage(tmp_path / "one")
    with pytest.raises(DataError, match="one: cannot be read as a folder saved by the datasets library"):
        hub.load_saved(tmp_path / "one")


@pytest.fixture
def offline(monkeypatch):
    # What HF_HUB_OFFLINE=1 sets when the libraries are imported.
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["nobody/no-such-set", "reviews", "no/such/place.txt"])
def test_without_network_the_hub_is_given_up_quickly(offline, name):
    start = time.monotonic()
    with pytest.raises(DataError, match=rf"^'{name}' is no file here, and the hub could not be asked"):
        load_data(DataOptions(data=name), seed=0)
    assert time.monotonic() - start < 5


def test_without_network_and_folder_a_glue_task_is_refused(offline):
    with pytest.raises(DataError, match=r"^'nyu-mll/glue' is no file here, and the hub could not be asked"):
        load_data(DataOptions(data="glue/rte"), seed=0)


def raise_not_found(name, config):
    raise datasets.exceptions.DatasetNotFoundError("404")


def raise_no_config(name, config):
    raise ValueError("Config name is missing.\nPlease pick one among ['a', 'b']")


ANSWERS = {
    "no such data set": (raise_not_found, "'mine' is neither a file here nor a data set on the hub"),
    "no configuration": (raise_no_config, "data set 'mine': Config name is missing. Name one with --data-config"),
}


@pytest.mark.parametrize(("answer", "message"), ANSWERS.values(), ids=ANSWERS)
def test_what_the_hub_answers_is_told(monkeypatch, answer, message):
    monkeypatch.setattr(datasets, "load_dataset", answer)
    with pytest.raises(DataError, match=f"^{message}"):
        hub.load_hub("mine", None)


def test_name_and_configuration_reach_the_hub(monkeypatch):
    asked = []

    def answer(name, config):
        asked.append((name, config))
        return DatasetDict(train=labelled(["a", "b", "c"], [0, 1, 1]), validation=labelled(["d"], [0]))

    monkeypatch.setattr(datasets, "load_dataset", answer)
    data = load_data(DataOptions(data="owner/mine", data_config="small"), seed=0)
    assert asked == [("owner/mine", "small")]
    assert data.train["text"][:] == ["a", "b", "c"]
