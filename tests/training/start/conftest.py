"""A tokenizer that pads made-up tokens."""

import pytest
from made_up_tokens import WORDS
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def padding() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(WORDS)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w1")),
        pad_token="w0",
        unk_token="w1",
        eos_token="w2",
        model_input_names=["input_ids", "attention_mask"],
    )
