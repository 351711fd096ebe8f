"""Loading models: what is decided before any weight is read."""

from types import SimpleNamespace

import pytest
from transformers import BertConfig

from qvtune.train.model import text_length


@pytest.mark.parametrize(
    ("asked", "positions", "read_by_tokenizer", "expected"),
    [
        (None, 2048, 10**30, 512),
        (None, 128, 10**30, 128),
        (None, 130, 128, 128),
        (None, 0, 10**30, 512),
        (64, 128, 10**30, 64),
        (1024, 2048, 512, 1024),
    ],
)
def test_texts_are_as_long_as_the_model_reads(
    asked: int | None, positions: int, read_by_tokenizer: int, expected: int
) -> None:
    config = BertConfig(max_position_embeddings=positions)
    assert text_length(asked, config, SimpleNamespace(model_max_length=read_by_tokenizer)) == expected
