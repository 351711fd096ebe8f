"""The small sets of `first_run.py`: each is written as train.csv and test.csv with columns text[, text_pair], label.

    from first_run_sets import SETS, write_set
    write_set(SETS["rte-500"], seed=0, folder=Path("sets/rte-500/0"), sources=Sources(Path("glue"), Path("multilabel")))

A source is a GLUE task, reviews, GoEmotions, names in tweets (WNUT17), or a made-up grammar. It has one test set,
which no seed changes; the seed draws the training examples. A set is a source with a number of training examples,
stratified by class with the imbalance that the source has, or with so many of each class ("tickets-8each"), which is
how few labels are measured; the test set is then the same. Few-label sets are made of every classification source up
to 1,000 training examples in all.

Halves: the sources are listed by kind (one text, two texts, a number, made up), in alphabetical order within a kind,
and are assigned to "development" and "confirmation" in turns, beginning anew with each kind. A source is in one half
with all its sets, so nothing that decided a default is confirmed on the same texts. Every kind has an even number of
sources, so the halves have 7 each.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import first_run_texts
import numpy as np
from first_run_texts import Rows

from qvtune.data.samples import stratified_sample

DEVELOPMENT, CONFIRMATION = "development", "confirmation"
TEST_EXAMPLES = 1_000
GOEMOTIONS_CLASSES = 8
FEW = (8, 16, 64)
FEW_AT_MOST = 1_000
# Test sets and pools are drawn with this; training examples with the seed of the run.
FIXED_SEED = 20_240_229


@dataclass(frozen=True)
class Sources:
    """Folders of the sources that are no package and not made up: GLUE, GoEmotions and WNUT17."""

    glue: Path | None = None
    goemotions: Path | None = None
    wnut: Path | None = None


@dataclass(frozen=True)
class Example:
    """Texts of an example, one or two, and its label."""

    texts: tuple[str, ...]
    label: str | float


@dataclass(frozen=True)
class Source:
    """Where examples come from.

    `load` returns the pool of training examples for a number of examples (None: as many as there are, balanced where
    they are made up) and a seed, and the test examples; `folder` names the field of `Sources` that it reads; `measure`
    is the metric that methods are compared by, where that is neither accuracy nor Pearson's correlation.
    """

    name: str
    kind: str
    load: Callable[[Sources, int | None, int], tuple[list[Example], list[Example]]]
    sizes: tuple[int, ...]
    classes: int = 0
    folder: str = ""
    measure: str = ""

    def is_there(self, sources: Sources) -> bool:
        """Whether what it needs is at hand: the folder that the field of `Sources` with this name gives."""
        return not self.folder or getattr(sources, self.folder) is not None

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number."""
        return self.classes == 0

    @property
    def is_made_up(self) -> bool:
        """Whether the examples are composed anew for every seed."""
        return self.name in vars(first_run_texts)


@dataclass(frozen=True)
class SmallSet:
    """A source with a number of training examples, in all (`size`) or of each class (`each`)."""

    name: str
    source: Source
    half: str
    size: int | None = None
    each: int | None = None

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number."""
        return self.source.is_regression

    @property
    def metric(self) -> str:
        """The metric that methods are compared by."""
        return self.source.measure or ("pearson" if self.is_regression else "accuracy")


def write_set(small: SmallSet, seed: int, folder: Path, sources: Sources) -> tuple[Path, Path]:
    """Write train.csv and test.csv of a set into a folder, and return their paths.

    Raises:
        DataError: where the source's files are not there.
    """
    train, test = examples(small, seed, sources)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.csv", folder / "test.csv"
    for path, rows in zip(paths, (train, test), strict=True):
        write_csv(path, rows)
    return paths


@cache
def load_once(source: Source, sources: Sources, size: int | None, seed: int) -> tuple[list[Example], list[Example]]:
    """Load a source, and keep it for the next set that is drawn from it."""
    return source.load(sources, size, seed)


def examples(small: SmallSet, seed: int, sources: Sources) -> tuple[list[Example], list[Example]]:
    """Return the training examples that the seed draws, in an order that it draws too, and the test examples."""
    # What is read from files does not depend on size and seed.
    drawn = (small.size, seed) if small.source.is_made_up else (None, 0)
    pool, test = load_once(small.source, sources, *drawn)
    if small.size is not None:
        chosen = stratified_sample(class_ids(pool, small), len(pool), min(small.size, len(pool)), seed)
    else:
        chosen = some_of_each([example.label for example in pool], small.each or 0, seed)
    order = np.random.default_rng([seed, 1]).permutation(len(chosen))
    return [pool[chosen[i]] for i in order], test


def class_ids(pool: Sequence[Example], small: SmallSet) -> list[int] | None:
    """Return the class number of each example, or None for a regression."""
    if small.is_regression:
        return None
    names = sorted({str(example.label) for example in pool})
    return [names.index(str(example.label)) for example in pool]


def some_of_each(labels: Sequence[Any], each: int, seed: int) -> list[int]:
    """Choose this many rows of every class at random."""
    random = np.random.default_rng([seed, 2])
    chosen = []
    for name in sorted(set(labels)):
        rows = [row for row, label in enumerate(labels) if label == name]
        chosen += [rows[i] for i in random.permutation(len(rows))[:each]]
    return chosen


def write_csv(path: Path, rows: Sequence[Example]) -> None:
    """Write examples with a header."""
    names = ["text", "text_pair"][: len(rows[0].texts)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "label"])
        writer.writerows([*row.texts, row.label] for row in rows)


def read_csv(path: Path) -> list[Example]:
    """Read what `write_csv` wrote; labels are text."""
    with path.open(encoding="utf-8", newline="") as file:
        return [Example(tuple(row[:-1]), row[-1]) for row in list(csv.reader(file))[1:]]


def load_glue(task: str) -> Callable[[Sources, int | None, int], tuple[list[Example], list[Example]]]:
    """Return a loader of a GLUE task: train.tsv, and up to 1,000 examples of dev.tsv as the test set."""

    def load(sources: Sources, size: int | None, seed: int) -> tuple[list[Example], list[Example]]:
        from qvtune.errors import DataError
        from qvtune.tasks.glue import load_tsv

        if sources.glue is None:
            raise DataError(f"glue/{task} needs the folder that holds GLUE. Give it with --glue-dir DIR.")
        data = load_tsv(task, sources.glue)
        parts = []
        for dataset in (data.train, data.evaluation["validation"]):
            columns = [dataset[name] for name in ("text", "text_pair") if name in dataset.column_names]
            labels = [data.task.labels[label] if data.task.labels else label for label in dataset["label"]]
            rows = [(tuple(map(str.strip, texts)), label) for *texts, label in zip(*columns, labels, strict=True)]
            parts.append([Example(texts, label) for texts, label in rows if all(texts)])
        return parts[0], draw(parts[1], TEST_EXAMPLES)

    return load


def load_reviews(name: str) -> Callable[[Sources, int | None, int], tuple[list[Example], list[Example]]]:
    """Return a loader of packaged reviews, of which up to 1,000 are the test set."""

    def load(sources: Sources, size: int | None, seed: int) -> tuple[list[Example], list[Example]]:
        from qvtune.tasks.load import load_data
        from qvtune.tasks.options import DataOptions

        # The part that is held out is put back: both parts together are all reviews.
        data = load_data(DataOptions(data=f"pkg:{name}"), FIXED_SEED)
        parts = [data.train, *data.evaluation.values()]
        rows = [(text, label) for part in parts for text, label in zip(part["text"], part["label"], strict=True)]
        return divide([Example((text,), data.task.labels[label]) for text, label in sorted(rows)])

    return load


def load_goemotions(sources: Sources, size: int | None, seed: int) -> tuple[list[Example], list[Example]]:
    """Load the comments of GoEmotions with one label, of the most frequent classes, as often as they are."""
    from qvtune.errors import DataError

    if sources.goemotions is None:
        raise DataError("goemotions needs the folder with its train.tsv. Give it with --goemotions-dir DIR.")
    names = (sources.goemotions / "labels.txt").read_text(encoding="utf-8").split()
    parts = []
    for file in ("train.tsv", "test.tsv"):
        lines = (sources.goemotions / file).read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in lines if line.count("\t") == 2]
        parts.append([(text, names[int(label)]) for text, label, _ in rows if label.isdigit() and text.strip()])
    frequent = [name for name, _ in Counter(label for _, label in parts[0]).most_common(GOEMOTIONS_CLASSES)]
    train, test = ([Example((text,), label) for text, label in part if label in frequent] for part in parts)
    return train, draw(test, TEST_EXAMPLES)


def load_wnut(sources: Sources, size: int | None, seed: int) -> tuple[list[Example], list[Example]]:
    """Load the tweets of WNUT17 that name things of one kind, with that kind as the class."""
    from qvtune.errors import DataError

    if sources.wnut is None:
        raise DataError("wnut needs the folder with wnut17train.conll. Give it with --wnut-dir DIR.")
    lines = (sources.wnut / "wnut17train.conll").read_text(encoding="utf-8").splitlines()
    rows, words, kinds = [], [], set()
    for line in [*lines, ""]:
        word, _, tag = line.partition("\t")
        if word.strip():
            words.append(word)
            kinds |= {tag.strip().removeprefix("B-").removeprefix("I-")} - {"O"}
            continue
        if len(kinds) == 1:
            rows.append(Example((" ".join(words),), kinds.pop()))
        words, kinds = [], set()
    return divide(rows, TEST_EXAMPLES // 3)


def load_made_up(compose: Callable[..., Rows]) -> Callable[[Sources, int | None, int], Any]:
    """Return a loader of made-up texts: 300 for the test set, and as many others as are wanted."""

    def load(sources: Sources, size: int | None, seed: int) -> tuple[list[Example], list[Example]]:
        test = as_examples(compose(300, np.random.default_rng([FIXED_SEED, 0])))
        known = {row.texts for row in test}
        pool = as_examples(compose(size or 4_000, np.random.default_rng([FIXED_SEED, 1, seed]), balanced=size is None))
        return [row for row in pool if row.texts not in known], test

    return load


def as_examples(rows: Rows) -> list[Example]:
    """Return texts and labels row by row."""
    return [Example((text,), label) for text, label in zip(*rows, strict=True)]


def divide(rows: list[Example], test: int = TEST_EXAMPLES) -> tuple[list[Example], list[Example]]:
    """Draw a test set, and return the others and it."""
    chosen = draw(rows, test)
    taken = {row.texts for row in chosen}
    return [row for row in rows if row.texts not in taken], chosen


def draw(rows: list[Example], size: int) -> list[Example]:
    """Draw rows at random, the same ones every time."""
    order = np.random.default_rng(FIXED_SEED).permutation(len(rows))[:size]
    return [rows[i] for i in sorted(order)]


GLUE_SIZES = (500, 1_000, 2_500)
SOURCES = (
    Source("cola", "one text", load_glue("cola"), GLUE_SIZES, classes=2, folder="glue", measure="matthews"),
    Source("goemotions", "one text", load_goemotions, (1_500,), classes=GOEMOTIONS_CLASSES, folder="goemotions"),
    Source("imdb", "one text", load_reviews("imdb"), (300,), classes=2),
    Source("rotten_tomatoes", "one text", load_reviews("rotten_tomatoes"), (600,), classes=2),
    Source("sst2", "one text", load_glue("sst2"), GLUE_SIZES, classes=2, folder="glue"),
    Source("wnut", "one text", load_wnut, (700,), classes=6, folder="wnut"),
    Source("mrpc", "two texts", load_glue("mrpc"), GLUE_SIZES, classes=2, folder="glue"),
    Source("rte", "two texts", load_glue("rte"), GLUE_SIZES, classes=2, folder="glue"),
    Source("severity", "a number", load_made_up(first_run_texts.severity), (800,)),
    Source("stsb", "a number", load_glue("stsb"), GLUE_SIZES, folder="glue"),
    Source("headlines", "made up", load_made_up(first_run_texts.headlines), (800,), classes=5),
    Source("intents", "made up", load_made_up(first_run_texts.intents), (1_000,), classes=40),
    Source("products", "made up", load_made_up(first_run_texts.products), (2_000,), classes=12),
    Source("tickets", "made up", load_made_up(first_run_texts.tickets), (1_080,), classes=7),
)


def half_of(source: Source) -> str:
    """Return the half that a source belongs to; the module's first lines say by which rule."""
    alike = [other.name for other in SOURCES if other.kind == source.kind]
    return (DEVELOPMENT, CONFIRMATION)[alike.index(source.name) % 2]


def list_sets() -> dict[str, SmallSet]:
    """Return all sets by name: those with the source's own imbalance, then those with few labels."""
    whole = [
        SmallSet(f"{source.name}-{size}" if len(source.sizes) > 1 else source.name, source, half_of(source), size=size)
        for source in SOURCES
        for size in source.sizes
    ]
    few = [
        SmallSet(f"{source.name}-{each}each", source, half_of(source), each=each)
        for source in SOURCES
        for each in FEW
        if not source.is_regression and each * source.classes <= FEW_AT_MOST
    ]
    return {small.name: small for small in [*whole, *few]}


SETS = list_sets()


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the sources' folders are."""
    parser.add_argument("--glue-dir", type=Path, metavar="DIR", help="Folder with GLUE (RTE/train.tsv, ...).")
    parser.add_argument("--goemotions-dir", type=Path, metavar="DIR", help="Folder with GoEmotions' train.tsv.")
    parser.add_argument("--wnut-dir", type=Path, metavar="DIR", help="Folder with wnut17train.conll.")


def sources_of(args: argparse.Namespace) -> Sources:
    """Return the folders that the options name."""
    return Sources(args.glue_dir, args.goemotions_dir, args.wnut_dir)


def main() -> None:
    """Write sets into folders OUT/NAME/SEED."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_source_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="Write into DIR/NAME/SEED.")
    parser.add_argument("--sets", default=",".join(SETS), metavar="NAMES")
    parser.add_argument("--seeds", default="0,1,2", metavar="NUMBERS")
    args = parser.parse_args()
    if unknown := [name for name in args.sets.split(",") if name not in SETS]:
        parser.error(f"--sets: unknown {unknown[0]}. Known: {', '.join(SETS)}.")
    for name in args.sets.split(","):
        for seed in map(int, args.seeds.split(",")):
            train, test = write_set(SETS[name], seed, args.out / name / str(seed), sources_of(args))
            print(f"{name} ({SETS[name].half}): {train}, {len(read_csv(train))}; test {len(read_csv(test))}")


if __name__ == "__main__":
    main()
