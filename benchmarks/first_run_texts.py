"""Made-up texts for `first_run_sets.py`: small grammars whose sentences are composed at random, with noise.

A grammar maps a name to its phrases; `{name}` inside a phrase is replaced by one of them, again and again. Classes
share most of their words, many texts mention something of another class, and typing errors and a few wrong labels
make a perfect score impossible.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from first_run_words import HEADLINES, INTENTS, PRODUCTS, SEVERITY, SHARED, SYNONYMS, TICKETS

Grammar = Mapping[str, Sequence[str]]


class Rows(NamedTuple):
    """Texts and their labels, strings for classes and numbers for a regression."""

    texts: list[str]
    labels: list[str] | list[float]


TICKET_SHARES = {
    "billing": 0.32, "technical": 0.23, "account": 0.16, "shipping": 0.12, "returns": 0.08, "feature": 0.06,
    "cancellation": 0.03,
}  # fmt: skip
WRONG_LABELS = 0.03


def expand(phrase: str, grammar: Grammar, random: np.random.Generator) -> str:
    """Replace every `{name}` in a phrase by one of its phrases in the grammar, or in what all grammars share."""

    def one(match: re.Match[str]) -> str:
        name = match.group(1)
        return expand(pick(grammar.get(name) or SHARED[name], random), grammar, random)

    return re.sub(r"\{(\w+)\}", one, phrase)


def pick(choices: Sequence[str], random: np.random.Generator) -> str:
    """Return one of the choices."""
    return choices[int(random.integers(len(choices)))]


def tickets(count: int, random: np.random.Generator, balanced: bool = False) -> Rows:
    """Compose messages to a shop's support, in seven unequal classes."""
    names = list(TICKETS)
    shares = [1 / len(names) if balanced else TICKET_SHARES[name] for name in names]
    texts, labels = [], []
    for label in draw_classes(names, shares, count, random):
        sentences = [expand(pick(TICKETS[label], random), {}, random)]
        if random.random() < 0.35:
            sentences.append(expand(pick(TICKETS[label], random), {}, random))
        if random.random() < 0.45:  # a word on something that is in order, or was asked before
            other = pick([name for name in names if name != label], random)
            aside = expand(pick(TICKETS[other], random), {}, random)
            sentences.append(f"{expand('{aside}', {}, random)} {aside}")
            random.shuffle(sentences)
        if random.random() < 0.5:
            sentences.insert(0, expand("{greeting}", {}, random))
        if random.random() < 0.5:
            sentences.insert(int(random.integers(len(sentences) + 1)), expand("{background}", {}, random))
        if random.random() < 0.45:
            sentences.append(expand("{closing}", {}, random))
        texts.append(with_noise(" ".join(sentences), random))
        labels.append(label)
    return Rows(texts, with_wrong_labels(labels, names, WRONG_LABELS, random))


def intents(count: int, random: np.random.Generator, balanced: bool = False) -> Rows:
    """Compose requests to an assistant for bank, travel and home, in 40 classes of about equal size."""
    names = list(INTENTS)
    texts, labels = [], []
    for label in draw_classes(names, [1 / len(names)] * len(names), count, random):
        shape = pick(["{core}", "{please} {core}", "{lead} {core}", "{core} {tail}"], random)
        text = expand(shape, {"core": INTENTS[label]}, random)
        texts.append(with_noise(text, random, rate=0.25))
        labels.append(label)
    return Rows(texts, with_wrong_labels(labels, names, 0.02, random))


def headlines(count: int, random: np.random.Generator, balanced: bool = False) -> Rows:
    """Compose the head and first line of a news article, in five topics that borrow from each other."""
    names = list(HEADLINES)
    texts, labels = [], []
    for label in draw_classes(names, [1 / len(names)] * len(names), count, random):
        grammar = HEADLINES[label]
        parts = [expand(pick(["{head}", "{head}", "{line}"], random), grammar, random)]
        if random.random() < 0.6:
            source = grammar
            if random.random() < 0.5:
                source = HEADLINES[pick([name for name in names if name != label], random)]
            parts.append(expand("{line}", source, random))
        if random.random() < 0.4:
            parts.append(expand("{newsline}", grammar, random))
        random.shuffle(parts)
        texts.append(with_noise(" ".join(part[:1].upper() + part[1:] for part in parts), random, rate=0.2))
        labels.append(label)
    return Rows(texts, with_wrong_labels(labels, names, 0.02, random))


def products(count: int, random: np.random.Generator, balanced: bool = False) -> Rows:
    """Compose short descriptions of goods, in 12 departments; neighbours share nouns and uses."""
    names = list(PRODUCTS)
    texts, labels = [], []
    for label in draw_classes(names, [1 / len(names)] * len(names), count, random):
        grammar = dict(PRODUCTS[label])
        if random.random() < 0.25:  # some of its words come from the department beside it
            beside = PRODUCTS[names[(names.index(label) + int(random.integers(1, 3))) % len(names)]]
            grammar[pick(["use", "feature"], random)] = beside["use"]
        if random.random() < 0.35:
            grammar["noun"] = SHARED["anything"]
        texts.append(with_noise(expand("{description}", grammar, random), random, rate=0.15))
        labels.append(label)
    return Rows(texts, with_wrong_labels(labels, names, 0.03, random))


def severity(count: int, random: np.random.Generator, balanced: bool = False) -> Rows:
    """Compose reports of faults with a number from 0 to 10 that says how bad it is: effect, extent and duration."""
    texts, scores = [], []
    for _ in range(count):
        effect, effect_score = pick_graded(SEVERITY["effect"], random)
        extent, extent_score = pick_graded(SEVERITY["extent"], random)
        duration, duration_score = pick_graded(SEVERITY["duration"], random)
        score = 0.5 * effect_score + 0.3 * extent_score + 0.2 * duration_score
        shape = pick(SEVERITY["shapes"], random)
        if "{extent}" not in shape:
            score += 0.3 * (4.5 - extent_score)
        if "{duration}" not in shape:
            score += 0.2 * (4.5 - duration_score)
        if random.random() < 0.25:
            turn, change = pick_graded(SEVERITY["turns"], random)
            shape += f" {turn}"
            score += change
        grammar = {"effect": [effect], "extent": [extent], "duration": [duration]}
        text = expand(shape, grammar | {"part": SEVERITY["part"], "place": SEVERITY["place"]}, random)
        texts.append(with_noise(text[:1].upper() + text[1:], random, rate=0.15))
        scores.append(round(float(np.clip(score + random.normal(0, 0.7), 0, 10)), 1))
    return Rows(texts, scores)


def pick_graded(graded: Mapping[str, float], random: np.random.Generator) -> tuple[str, float]:
    """Return one of the phrases and its grade."""
    phrase = pick(list(graded), random)
    return phrase, graded[phrase]


def draw_classes(names: Sequence[str], shares: Sequence[float], count: int, random: np.random.Generator) -> list[str]:
    """Return `count` class names in random order, each as often as its share says, within one."""
    bounds = np.round(np.cumsum(shares) / np.sum(shares) * count).astype(int)
    counts = np.diff(bounds, prepend=0)
    drawn = [name for name, times in zip(names, counts, strict=True) for _ in range(times)]
    return [drawn[i] for i in random.permutation(count)]


def with_wrong_labels(
    labels: Sequence[str], names: Sequence[str], share: float, random: np.random.Generator
) -> list[str]:
    """Return the labels with about this share of them replaced by others."""
    return [
        pick([name for name in names if name != label], random) if random.random() < share else label
        for label in labels
    ]


def with_noise(text: str, random: np.random.Generator, rate: float = 0.35) -> str:
    """Say some words in other words, leave some out, make typing errors, drop capitals and full stops, each in some."""
    words = []
    for word in text.split(" "):
        if random.random() < 0.05:
            continue
        others = SYNONYMS.get(word.lower(), [])
        words.append(pick(others, random) if others and random.random() < 0.6 else word)
    text = " ".join(words) or text
    if random.random() < rate:
        words = text.split(" ")
        for _ in range(1 + len(words) // 12):
            place = int(random.integers(len(words)))
            words[place] = with_typing_error(words[place], random)
        text = " ".join(words)
    if random.random() < rate / 2:
        text = text.lower()
    if random.random() < rate / 2:
        text = text.rstrip(".!")
    return text


def with_typing_error(word: str, random: np.random.Generator) -> str:
    """Swap, drop or double a letter of a word of four or more."""
    if len(word) < 4:
        return word
    place = int(random.integers(1, len(word) - 2))
    kind = int(random.integers(3))
    if kind == 0:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return word[:place] + (word[place] * 2 if kind == 1 else "") + word[place + 1 :]
