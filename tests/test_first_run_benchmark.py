"""The benchmark of a first run: its sets, its linear rivals, its results and its page."""

import json
import math
import statistics
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import first_run  # noqa: E402
from first_run_page import Mean, Table, few_averages, mean_of, verdict, write_page  # noqa: E402
from first_run_rivals import Problem, fit_linear, labels_of, majority, measure, tfidf  # noqa: E402
from first_run_sets import SETS, SOURCES, Sources, examples, half_of, read_csv, write_set  # noqa: E402
from first_run_store import Cell, Results  # noqa: E402
from first_run_trained import default_steps  # noqa: E402

MADE_UP = ("tickets", "headlines", "intents", "products", "severity")


@pytest.mark.parametrize("name", MADE_UP)
def test_a_seed_draws_the_training_examples_and_leaves_the_test_set(name, tmp_path):
    paths = [write_set(SETS[name], seed, tmp_path / str(number), Sources()) for number, seed in enumerate((0, 0, 1))]
    (train, test), (again, same_test), (other, other_test) = ([read_csv(path) for path in pair] for pair in paths)
    assert train == again
    assert {row.texts for row in train} != {row.texts for row in other}
    assert test == same_test == other_test
    assert len(test) == 300
    assert not {row.texts for row in train} & {row.texts for row in test}


@pytest.mark.parametrize("name", [name for name in MADE_UP if name != "severity"])
def test_few_labels_are_as_many_of_each_class(name):
    train, _ = examples(SETS[f"{name}-8each"], 0, Sources())
    counts = Counter(row.label for row in train)
    assert len(counts) == SETS[name].source.classes
    assert set(counts.values()) == {8}
    assert not [name for name in SETS if name.startswith("severity-")]


def test_tickets_are_unequal_and_no_key_word_gives_them_away():
    train, test = examples(SETS["tickets"], 0, Sources())
    counts = Counter(row.label for row in train).most_common()
    assert len(counts) == 7
    assert counts[0][1] > 6 * counts[-1][1]
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    texts = vectorizer.fit_transform([row.texts[0] for row in train])
    model = LogisticRegression(C=10, max_iter=500).fit(texts, [row.label for row in train])
    score = model.score(vectorizer.transform([row.texts[0] for row in test]), [row.label for row in test])
    assert 0.8 < score < 0.93


def test_halves_share_every_kind_and_no_source():
    by_kind = {}
    for source in SOURCES:
        by_kind.setdefault(source.kind, Counter())[half_of(source)] += 1
    for counts in by_kind.values():
        assert counts["development"] == counts["confirmation"]
    for small in SETS.values():
        assert small.half == half_of(small.source)


def test_glue_is_a_stratified_sample_of_its_files(tmp_path):
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)
    for file, count in (("train.tsv", 900), ("dev.tsv", 90)):
        rows = [f"sentence number {i} of {file}\t{int(i % 3 == 0)}" for i in range(count)]
        (folder / file).write_text("sentence\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")
    train, test = examples(SETS["sst2-500"], 3, Sources(glue=tmp_path / "glue"))
    assert len(train) == 500
    assert Counter(row.label for row in train)["positive"] in (166, 167)
    assert {row.texts[0].split()[-1] for row in train} == {"train.tsv"}
    assert len(test) == 90


def problem(name, seed=0, cache=Path("unused")):
    train, test = examples(SETS[name], seed, Sources())
    return Problem(train, test, SETS[name].is_regression, seed, "pkg:minilm", cache)


def test_the_majority_says_one_class_and_tfidf_says_more():
    small = problem("headlines-16each")
    labels = labels_of(small.test, False)
    low, high = (measure(labels, rival(small).predictions, False) for rival in (majority, tfidf))
    assert low["largest"] == 1.0
    assert low["accuracy"] == pytest.approx(np.mean(labels == majority(small).predictions[0]))
    assert low["matthews"] == 0.0
    assert high["accuracy"] > low["accuracy"] + 0.2
    assert high["largest"] < 0.5


def test_a_constant_has_no_correlation_and_a_line_has_all():
    labels = np.array([1.0, 2.0, 4.0])
    assert measure(labels, np.full(3, 2.0), True) == {"pearson": 0.0, "spearman": 0.0}
    assert measure(labels, 3 * labels - 1, True)["pearson"] == pytest.approx(1.0)


def test_the_penalty_is_chosen_on_training_examples_alone():
    small = problem("tickets-16each")
    random = np.random.default_rng(0)
    names = sorted(set(small.labels.tolist()))

    # The first columns say the class with some noise, the others nothing: both ends of the penalties do worse.
    def features(labels):
        signal = np.array([[name == label for name in names] for label in labels], dtype=float)
        return np.hstack([signal + random.normal(0, 0.7, signal.shape), random.normal(0, 1, (len(labels), 60))])

    train, test = features(small.labels), features(labels_of(small.test, False))
    answer = fit_linear(small, train, test)
    by_hand = LogisticRegression(C=answer.notes["C"], max_iter=1_000, tol=1e-3).fit(train, small.labels)
    assert (by_hand.predict(test) == answer.predictions).all()
    assert 1e-4 < answer.notes["C"] < 10


def test_setfit_takes_as_many_steps_as_its_pairs_ask_for():
    sampler = pytest.importorskip("setfit.sampler", reason="needs the extra 'bench'")

    class Arguments:
        embedding_batch_size, embedding_num_epochs = 16, 1

    labels = ["a"] * 8 + ["b"] * 5 + ["c"] * 3
    pairs = len(sampler.ContrastiveDataset([f"text {i}" for i in range(16)], labels, multilabel=False))
    assert default_steps(labels, Arguments) == math.ceil(pairs / 16)


def results(tmp_path, cells):
    store = Results(tmp_path / "first_run.json", tmp_path)
    for (name, method, seed, version), value in cells.items():
        found = {"accuracy": value, "macro_f1": value, "largest": 0.3, "seconds": 1.0, "notes": {}}
        store.add(Cell(name, method, seed, version), found)
    return store


def test_results_outlive_the_process_and_two_may_write(tmp_path):
    first = results(tmp_path, {("tickets", "tfidf", 0, ""): 0.5})
    second = results(tmp_path, {("tickets", "qvtune", 0, "abc"): 0.7})
    first.add(Cell("tickets", "tfidf", 1), {"accuracy": 0.6})
    third = Results(tmp_path / "first_run.json", tmp_path)
    assert third.has(Cell("tickets", "tfidf", 0))
    assert third.has(Cell("tickets", "qvtune", 0, "abc"))
    assert third.has(Cell("tickets", "tfidf", 1))
    assert not second.has(Cell("tickets", "tfidf", 1))
    assert third.latest == "abc"
    assert not third.has(Cell("tickets", "qvtune", 0, "abd"))
    json.loads((tmp_path / "first_run.json").read_text())


def test_means_and_verdicts():
    mean = mean_of([0.5, 0.6, 0.7])
    assert mean == Mean(pytest.approx(0.6), pytest.approx(statistics.stdev([0.5, 0.6, 0.7]) / math.sqrt(3)), 3)
    assert verdict(Mean(0.0, 0.1, 3)) == "yes"
    assert verdict(Mean(-0.01, 0.02, 3)) == "within"
    assert verdict(Mean(-0.03, 0.02, 3)) == "no"
    assert verdict(Mean(-0.03, math.nan, 1)) == "no"
    assert mean_of([]) is None


def test_the_page_compares_seed_by_seed_with_the_best_probe(tmp_path):
    ours, probes = (0.80, 0.60, 0.90), {"pooler": (0.7, 0.5, 0.8), "first": (0.6, 0.6, 0.6), "mean": (0.81, 0.62, 0.91)}
    cells = {("tickets", "qvtune", seed, "new"): value for seed, value in enumerate(ours)}
    cells |= {("tickets", "qvtune", seed, "old"): 0.1 for seed in range(3)}
    for name, values in probes.items():
        cells |= {("tickets", f"probe-{name}", seed, ""): value for seed, value in enumerate(values)}
    cells |= {("tickets", "majority", seed, ""): 0.3 for seed in range(3)}
    store = results(tmp_path, cells)
    table = Table(store, "new")
    assert table.best(SETS["tickets"], ("probe-pooler", "probe-first", "probe-mean")) == "probe-mean"
    difference = table.difference(SETS["tickets"], "qvtune", "probe-mean")
    assert difference.value == pytest.approx(-0.04 / 3)
    assert difference.error == pytest.approx(statistics.stdev([-0.01, -0.02, -0.01]) / math.sqrt(3))
    out = tmp_path / "page"
    write_page(out, store, "new")
    row = next(line for line in out.with_suffix(".md").read_text().splitlines() if line.startswith("| tickets |"))
    cells_of_row = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells_of_row[:2] == ["tickets", "con"]
    assert "**0.780" in row
    assert cells_of_row[-5:] == ["no", "yes", "", "", ""]
    assert out.with_suffix(".png").stat().st_size > 1_000


def test_stuck_at_the_majority_is_said(tmp_path):
    store = results(tmp_path, {("tickets", "probe-mean", 0, ""): 0.8})
    store.add(Cell("tickets", "qvtune", 0, "v"), {"accuracy": 0.31, "largest": 1.0})
    table = Table(store, "v")
    assert table.leaves_majority(SETS["tickets"], "qvtune", "probe-mean") == "no"
    store.add(Cell("tickets", "qvtune", 0, "v"), {"accuracy": 0.31, "largest": 0.8})
    assert table.leaves_majority(SETS["tickets"], "qvtune", "probe-mean") == "yes"


def test_few_label_averages_are_over_sets_that_every_method_has(tmp_path):
    cells = {("tickets-8each", "majority", 0, ""): 0.1, ("intents-8each", "majority", 0, ""): 0.9}
    cells |= {("tickets-8each", "setfit", 0, ""): 0.7}
    lines = few_averages(Table(results(tmp_path, cells), ""), ("majority", "setfit", "qvtune"))
    assert lines[2:] == ["| 8 a class | 1 | 0.100 | 0.700 |  |"]


def test_only_names_sets_methods_and_kinds():
    wanted = first_run.is_wanted
    tickets, few = SETS["tickets"], SETS["tickets-8each"]
    setfit, ours = first_run.METHODS["setfit"], first_run.METHODS["qvtune"]
    assert wanted(tickets, ours, "")
    assert wanted(tickets, ours, "qvtune")
    assert wanted(tickets, ours, "tickets")
    assert wanted(tickets, ours, "whole/qvtune")
    assert not wanted(few, ours, "whole/qvtune")
    assert wanted(few, setfit, "confirmation")
    assert not wanted(few, setfit, "development/setfit")
    assert not setfit.suits(tickets)
    assert setfit.suits(few)
    decoder = first_run.METHODS["qvtune@smollm2"]
    assert decoder.suits(tickets)
    assert not decoder.suits(SETS["intents"])
