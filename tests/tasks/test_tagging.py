"""A tag for every word, beside seqeval and transformers: columns, windows, the loss, metrics, spans of predictions."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from seqeval.metrics import accuracy_score, classification_report, f1_score, precision_score, recall_score
from tiny import save_tiny_bert, save_tiny_llama
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

import qvtune
from qvtune.cli.main import main
from qvtune.data.tables import Table, read_table
from qvtune.errors import DataError, ModelError
from qvtune.tasks.guess import read_labelled
from qvtune.tasks.load import load_data
from qvtune.tasks.options import DataOptions
from qvtune.tasks.ragged import ragged
from qvtune.tasks.table import task_from_dict
from qvtune.tasks.tagged_words import text_dataset
from qvtune.tasks.tagging import Tagging
from qvtune.tasks.windows import windows_of

TAGS = ("O", "B-place", "I-place", "B-person", "I-person")
TASK = Tagging("mine", TAGS, "entities", "f1", ("tokens",), "tags", "IOB2")
POS = Tagging("mine", ("DET", "NOUN", "VERB"), "tags", "f1_macro", ("tokens",), "tags", "plain")


def table(*rows: tuple, columns: tuple[str, ...] = ("tokens", "tags")) -> Table:
    return Table("m.jsonl", columns, list(rows), [f"m.jsonl, line {n}" for n in range(1, len(rows) + 1)])


def task_of(read: Table) -> Tagging:
    kind, records, _ = read_labelled(read)
    return kind.from_records("mine", records)


FORMS = {
    "jsonl": ("m.jsonl", '{"tokens": ["in", "Rome"], "tags": ["O", "B-place"]}\n{"tokens": ["so"], "tags": ["O"]}\n'),
    "other names": ("m.jsonl", '{"words": ["in", "Rome"], "x": ["O", "B-place"]}\n{"words": ["so"], "x": ["O"]}\n'),
    "labels": (
        "m.jsonl",
        '{"token": ["in", "Rome"], "labels": ["O", "B-place"]}\n{"token": ["so"], "labels": ["O"]}\n',
    ),
    "conll, tabs": ("m.conll", "in\tO\nRome\tB-place\n\nso\tO\n"),
    "conll, spaces and more columns": ("m.conll", "-DOCSTART- X O\n\nin IN O\nRome NNP B-place\n\n\nso RB O"),
    "conll, comments and \\r\\n": ("m.iob2", "# id = 1\r\nin\tO\r\nRome\tB-place\r\n\r\n# id = 2\r\nso\tO\r\n"),
}


@pytest.mark.parametrize(("name", "text"), FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_examples(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, newline="")
    kind, records, note = read_labelled(read_table(tmp_path / name))
    task = kind.from_records("mine", records)
    examples = task.examples(records)
    assert (task.kind, task.labels, task.scheme) == ("tagging", ("O", "B-place"), "IOB2")
    assert examples["text"][:] == ["in Rome", "so"]
    assert examples["spans"][:] == [[[0, 2], [3, 7]], [[0, 2]]]
    assert examples["label"][:] == [[0, 1], [0]]
    assert "words are" in note
    assert task_from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_parquet_and_class_labels_of_the_hub(tmp_path: Path) -> None:
    rows = {"tokens": [["in", "Rome"], ["so"]], "ner_tags": [["O", "B-place"], ["O"]]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "m.parquet")
    assert task_of(read_table(tmp_path / "m.parquet")).labels == ("O", "B-place")
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-place"]))})
    saved = Dataset.from_dict(rows | {"ner_tags": [[0, 1], [0]]}, features=features)
    hidden = Dataset.from_dict({"tokens": [["of"]], "ner_tags": [[0]]}, features=features)
    DatasetDict(train=saved, validation=hidden).save_to_disk(tmp_path / "saved")
    data = load_data(DataOptions(data=str(tmp_path / "saved")), seed=0)
    assert (data.task.kind, data.task.labels) == ("tagging", ("O", "B-place"))
    assert data.train["label"][:] == [[0, 1], [0]]
    assert data.evaluation["validation"]["text"][:] == ["of"]


BAD = {
    "unequal lengths": (
        table((["a", "b"], ["O", "O"]), (["a"], ["O", "O"])),
        r"line 2: column 'tokens' holds 1 words, and 'tags' 2 tags",
    ),
    "numbers as tags": (table((["a"], [0])), r"line 1: column 'tags' holds 0, which is no text"),
    "no list": (table((["a"], ["O"]), ("a", ["O"])), r"line 2: column 'tokens' is a str, and should be a list"),
    "missing": (table((["a"], ["O"]), (["a"], None)), r"line 2: column 'tags' is missing, and should be a list"),
    "an empty word": (table((["a", " "], ["O", "O"])), r"line 1: column 'tokens' holds an empty text"),
    "no words": (table((["a"], ["O"]), ([], [])), r"line 2: column 'tokens' holds no words"),
    "I without B": (
        table((["a", "b"], ["B-x", "O"]), (["a", "b"], ["O", "I-x"])),
        r"line 2, word 2: the tag I-x follows O, .*not begun\. An entity begins with B-, as in B-x",
    ),
    "I of another type": (
        table((["a", "b"], ["B-x", "I-y"]), (["a"], ["O"])),
        r"line 1, word 2: the tag I-y follows B-x",
    ),
    "E without B": (
        table((["a", "b"], ["S-x", "E-x"]), (["a"], ["O"])),
        r"line 1, word 2: the tag E-x follows S-x.*B- or S-",
    ),
    "one tag everywhere": (table((["a"], ["O"]), (["a"], ["O"])), r"m\.jsonl: every word has the tag 'O'"),
}


@pytest.mark.parametrize(("read", "message"), BAD.values(), ids=BAD)
def test_bad_rows_are_refused_with_their_place(read: Table, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_of(read)


BAD_CONLL = {
    "a tag is missing": ("in\tO\nRome\n", r"m\.conll, line 2: has 1 field; every word needs a line with 2"),
    "a field too many": ("in\tO\nRome\tB-x\ty\n", r"m\.conll, line 2: has 3 fields"),
    "an empty word": ("in\tO\n\tO\n", r"m\.conll, line 2: has 2 fields, one of them empty"),
    "a field alone": ("in\n", r"m\.conll, line 1: has 1 field"),
}


@pytest.mark.parametrize(("text", "message"), BAD_CONLL.values(), ids=BAD_CONLL)
def test_bad_lines_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.conll").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "m.conll")


def test_an_unknown_tag_is_refused_with_its_word() -> None:
    read = table((["a", "b"], ["O", "B-plce"]))
    with pytest.raises(DataError, match=r"line 1, word 2: the tag 'B-plce' does not occur.*Did you mean '[BI]-place'"):
        TASK.examples(TASK.read(read)[0])


def test_a_word_with_its_own_line_is_named_by_it(tmp_path: Path) -> None:
    (tmp_path / "m.conll").write_text("# id = 1\nin\tO\nRome\tB-place\n\nso\tO\n# a comment\nfar\tI-place\n")
    with pytest.raises(DataError, match=r"m\.conll, line 7: the tag I-place follows O"):
        task_of(read_table(tmp_path / "m.conll"))
    (tmp_path / "m.conll").write_text("in\tO\n\nso\tO\nfar\tB-plce\n")
    with pytest.raises(DataError, match=r"m\.conll, line 4: the tag 'B-plce' does not occur"):
        TASK.examples(TASK.read(read_table(tmp_path / "m.conll"))[0])


def test_the_scheme_follows_from_the_tags() -> None:
    assert task_of(table((["a", "b"], ["S-x", "O"]), (["a", "b"], ["B-x", "E-x"]))).scheme == "IOBES"
    assert task_of(table((["a", "b"], ["DET", "NOUN"]))).scheme == "plain"
    assert task_of(table((["a", "b"], ["DET", "NOUN"]))).main_metric == "f1_macro"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    """A tokenizer that divides words into letters, and knows where they are."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = {c: i for i, c in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz?R"])}
    made = Tokenizer(models.WordLevel(letters, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def test_the_first_piece_stands_for_a_word(tokenizer) -> None:
    data = text_dataset([["in", "Rome", "?"]])
    ((window,),) = windows_of(data["text"], data["spans"][:], tokenizer, 32)
    assert (window.words, window.positions) == ([0, 1, 2], [1, 3, 7])
    assert tokenizer.convert_ids_to_tokens([window.inputs["input_ids"][p] for p in window.positions]) == ["i", "R", "?"]


@pytest.mark.parametrize("words", [30, 200, 1000])
def test_a_text_longer_than_the_model_loses_no_word(tokenizer, words: int) -> None:
    generator = np.random.default_rng(words)
    text = ["".join(generator.choice(list("abc"), generator.integers(1, 5))) for _ in range(words)]
    data = text_dataset([text])
    (windows,) = windows_of(data["text"], data["spans"][:], tokenizer, 32)
    assert len(windows) > 1
    assert sorted(word for window in windows for word in window.words) == list(range(words))
    for number, window in enumerate(windows):
        ids = window.inputs["input_ids"]
        assert len(ids) <= 32
        for word, position in zip(window.words, window.positions, strict=True):
            pieces = tokenizer.convert_ids_to_tokens(ids[position : position + len(text[word])])
            assert pieces == list(text[word])[: len(pieces)]
            # Context on both sides, where the text goes on there: a window overlaps by 7 tokens.
            assert position > 3 or number == 0
            assert position < 32 - 3 or number == len(windows) - 1
    task = Tagging("m", ("O", "x"), "tags", "f1_macro", ("tokens",), "tags", "plain")
    labels = generator.integers(0, 2, words).tolist()
    rows = task.encode(data.add_column("label", [labels]), tokenizer, 32)
    assert task.joined(task.label_array(rows["labels"][:]), rows)[0].tolist() == labels
    (said,) = task.describe_tokens(rows, tokenizer)
    assert said.startswith("1 of 1 training texts have more tokens than are read at once")
    assert task.describe_tokens(task.encode(text_dataset([["so"]]), tokenizer, 32), tokenizer) == []


def test_a_word_without_tokens_keeps_its_place(tokenizer) -> None:
    data = text_dataset([["in", "\u200b", "Rome"]])
    tokenizer.backend_tokenizer.normalizer = None
    data = data.map(lambda row: {"spans": [[0, 2], [2, 2], [5, 9]], "text": "in   Rome"})
    ((window,),) = windows_of(data["text"], data["spans"][:], tokenizer, 32)
    assert (window.words, window.positions) == ([0, 1, 2], [1, 1, 3])


def test_a_tokenizer_without_places_and_a_window_without_room_are_refused(tokenizer) -> None:
    with pytest.raises(ModelError, match="--max-length is 4, too few"):
        windows_of(["a"], [[(0, 1)]], tokenizer, 4)


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path / "bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder, num_labels=5)
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config).eval()
    data = text_dataset([["good", "film", "plot"], ["bad"]]).add_column("label", [[1, 2, 0], [4]])
    rows = TASK.encode(data, tokenizer, 32)
    batch = TASK.collator(tokenizer)(rows.to_list())
    with torch.no_grad():
        outputs = model(**TASK.model_inputs(batch))
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, 1:4], labels[1, 1] = torch.tensor([1, 2, 0]), 4
    own = model(**TASK.model_inputs(batch), labels=labels).loss
    assert float(TASK.loss(outputs, batch) / TASK.count(batch)) == pytest.approx(float(own), rel=1e-6)
    scores = TASK.joined(TASK.scores(outputs, batch), rows)
    assert [row.shape for row in scores] == [(3, 5), (1, 5)]
    losses = TASK.losses(scores, TASK.label_array(data["label"][:]))
    assert losses.mean() == pytest.approx(float(own), rel=1e-6)
    weights = [0.5, 2.0, 1.0, 1.0, 3.0]
    weighted = torch.nn.functional.cross_entropy(
        outputs.logits.view(-1, 5), labels.view(-1), weight=torch.tensor(weights), ignore_index=-100
    )
    found = TASK.loss(outputs, batch, weights) / TASK.count(batch, weights)
    assert float(found) == pytest.approx(float(weighted), rel=1e-6)


def test_metrics_are_seqevals() -> None:
    generator = np.random.default_rng(0)
    wanted = [["B-place", "I-place", "O"], ["O", "B-person", "I-person", "O"], ["B-place", "B-place"], ["O"] * 5] * 5
    labels = ragged([np.array([TAGS.index(tag) for tag in tags]) for tags in wanted])
    scores = ragged([np.eye(5)[row] * 2 + generator.normal(size=(len(row), 5)) for row in labels])
    called = [[TAGS[i] for i in row.argmax(axis=1)] for row in scores]
    assert TASK.metrics(scores, labels) == {
        "f1": f1_score(wanted, called),
        "precision": precision_score(wanted, called),
        "recall": recall_score(wanted, called),
        "accuracy": accuracy_score(wanted, called),
    }
    report = classification_report(wanted, called, output_dict=True)
    for entry in TASK.class_table(scores, labels)["classes"]:
        theirs = report[entry["label"]]
        assert (entry["precision"], entry["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]))
        assert (entry["f1"], entry["support"]) == pytest.approx((theirs["f1-score"], theirs["support"]))
    worst = TASK.mistakes(scores, labels, 3)
    assert [m["loss"] for _, m in worst] == sorted((m["loss"] for _, m in worst), reverse=True)
    plain = ragged([row % 3 for row in labels])
    assert POS.metrics(ragged([np.eye(3)[row] for row in plain]), plain) == {"accuracy": 1.0, "f1_macro": 1.0}


def test_predictions_have_places_in_the_text() -> None:
    data = text_dataset([["The", "new", "York", "man"], "Rome!  Paris"])
    ids = [[0, 1, 2, 0], [1, 0, 1]]
    rows = TASK.predictions(ragged([np.eye(5)[row] for row in ids]), data)
    assert [row["words"] for row in rows] == [["The", "new", "York", "man"], ["Rome", "!", "Paris"]]
    assert rows[0]["entities"] == [{"type": "place", "start": 4, "end": 12, "text": "new York"}]
    assert [(e["start"], e["end"], e["text"]) for e in rows[1]["entities"]] == [(0, 4, "Rome"), (7, 12, "Paris")]
    assert rows[1]["tags"] == ["B-place", "O", "B-place"]


def test_predictions_that_find_nothing_are_warned_of() -> None:
    labels = ragged([np.array([1, 2, 3, 0])] * 6)
    nothing = ragged([np.zeros(4, int)] * 6)
    assert "nothing was found on here, which has 12" in TASK.judge(nothing, labels, "here")["one_class"]
    places = ragged([np.array([1, 2, 0, 0])] * 3 + [np.array([1, 2, 4, 0])] * 3)
    only = ragged([np.array([1, 1, 0, 0])] * 6)
    assert "person" not in str(TASK.judge(places, labels, "here").get("never"))
    assert "place' alone" in TASK.judge(only, labels, "here")["one_class"]
    assert TASK.judge(labels, labels, "here") == {}


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_llama], ids=["bert", "llama"])
def test_fast_and_plain_have_the_same_loss_and_gradients(tmp_path: Path, save) -> None:
    folder = save(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=5)
    model = qvtune.adapt(model, roles="qv", dropout=0.0).eval()
    for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
        parameter.data.normal_(std=0.02)
    data = text_dataset([["good", "film", "plot", "is"], ["bad"]]).add_column("label", [[1, 2, 0, 3], [4]])
    batch = TASK.collator(tokenizer)(TASK.encode(data, tokenizer, 32).to_list())
    found = []
    for made in (model, qvtune.make_fast(model, precision="fp32")):
        made.zero_grad()
        loss = TASK.loss(made(**TASK.model_inputs(batch)), batch)
        loss.backward()
        found.append([loss.detach()] + [p.grad.clone() for p in made.parameters() if p.grad is not None])
    assert len(found[0]) > 4
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


KINDS = {"good": "praise", "lovely": "praise", "bad": "blame", "awful": "blame"}


def write_sentences(path: Path, count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Sentences in which some words, with the word after them if it is "film", are entities."""
    generator, rows = np.random.default_rng(seed), []
    for _ in range(count):
        words, tags = [], []
        for _ in range(int(generator.integers(3, 8))):
            word = str(generator.choice([*KINDS, "the", "a", "is", "was", "plot"]))
            words.append(word)
            tags.append(f"B-{KINDS[word]}" if word in KINDS else "O")
            if word in KINDS and generator.random() < 0.5:
                words.append("film")
                tags.append(f"I-{KINDS[word]}")
        rows.append((words, tags))
    lines = ["".join(f"{word}\t{tag}\n" for word, tag in zip(*row, strict=True)) for row in rows]
    path.write_text("\n".join(lines))
    return rows


def test_a_run_from_training_to_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_bert(tmp_path / "bert")
    write_sentences(tmp_path / "train.conll", 200, 0)
    new = write_sentences(tmp_path / "new.conll", 40, 1)
    options = f"--model {tmp_path}/bert --data {tmp_path}/train.conll --lr 1e-2 --head-lr 2e-2 --batch-size 16"
    options += " --epochs 6 --max-length 8 --precision fp32 --no-log-updates"
    assert main(["train", *options.split(), "--out", str(tmp_path / "run")]) == 0
    assert "Entities (IOB2)" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["f1"] > 0.8
    assert result["head_start"]["metrics"]["f1"] > 0
    assert main(f"evaluate --run {tmp_path}/run --data {tmp_path}/new.conll --json".split()) == 0
    found = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))["metrics"]
    assert main(f"predict --run {tmp_path}/run --data {tmp_path}/new.conll --out {tmp_path}/p.jsonl".split()) == 0
    predicted = [json.loads(line)["tags"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert found["f1"] == pytest.approx(f1_score([tags for _, tags in new], predicted))
    # Texts that are not divided into words, as the same words with spaces between.
    with open(tmp_path / "texts.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text",), *((" ".join(words),) for words, _ in new)])
    words = f"predict --run {tmp_path}/run --data {tmp_path}/texts.csv --text-column text --out {tmp_path}/p.csv"
    assert main(words.split()) == 0
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["tags"].split(";") for row in rows] == predicted
    for row in rows:
        for entity in json.loads(row["entities"]) if row["entities"] else []:
            assert row["text"][entity["start"] : entity["end"]] == entity["text"]
    # Short texts by plain transformers.
    assert main(f"merge --run {tmp_path}/run --out {tmp_path}/merged".split()) == 0
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    for (words, _), tags in zip(new, predicted, strict=True):
        if len(words) <= 6:
            with torch.no_grad():
                logits = model(**tokenizer(" ".join(words), return_tensors="pt")).logits[0, 1:-1]
            assert [model.config.id2label[int(i)] for i in logits.argmax(-1)] == tags
    assert main(["report", str(tmp_path / "run")]) == 0
    assert (
        "Worst mistakes" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
        or not (tmp_path / "run" / "mistakes.jsonl").read_text()
    )
    bad = (tmp_path / "new.conll").read_text().replace("B-blame", "B-other")
    (tmp_path / "bad.conll").write_text(bad)
    assert main(f"evaluate --run {tmp_path}/run --data {tmp_path}/bad.conll".split()) == 2
    line = bad[: bad.index("B-other")].count("\n") + 1
    assert f"bad.conll, line {line}: the tag 'B-other' does not occur" in capsys.readouterr().err
