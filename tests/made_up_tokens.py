"""Made-up tokenised texts of several classes."""

import numpy as np
from datasets import Dataset

EOS = 2
WORDS = 100


def make_tokens(count: int, classes: int = 3, seed: int = 0) -> Dataset:
    """Texts of 5 to 12 tokens, half of them words of the text's class, that begin alike and end with EOS."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        label, length = index % classes, int(generator.integers(3, 11))
        own = generator.integers(10 + 10 * label, 20 + 10 * label, length)
        other = generator.integers(60, WORDS, length)
        words = np.where(generator.random(length) < 0.5, own, other)
        rows.append([3, *words.tolist(), EOS])
    return Dataset.from_dict(
        {
            "input_ids": rows,
            "attention_mask": [[1] * len(row) for row in rows],
            "labels": [index % classes for index in range(count)],
        }
    )
