"""Which tokens of a conversation are trained, token by token, for the templates of common models."""

import re

import pytest
from chat_templates import (
    BARE,
    CHATML,
    FAMILIES,
    GEMMA_2,
    LLAMA_3,
    MISTRAL_LAST,
    PHI_3,
    QWEN_25,
    THINKING,
    byte_tokenizer,
)
from transformers import PreTrainedTokenizerBase

from qvtune.errors import DataError, ModelError
from qvtune.tasks.causal.conversation import Conversation, Turn, dialogue
from qvtune.tasks.causal.template import PLAIN_NOTE, fit_template
from qvtune.tasks.causal.tokens import UNTRAINED, encode, encode_question, show, stop_tokens

TALK = (
    Turn("user", "Hi"), Turn("assistant", "Hello, you."), Turn("user", "Who?"), Turn("assistant", "A model\nof words.")
)  # fmt: skip
BRIEF = Turn("system", "Be brief.")

# What is between ⟦ and ⟧ is trained; written by hand from each template's documented form.
EXPECTED = {
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello, you.<|eot_id|>⟧"
    "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦A model\nof words.<|eot_id|>⟧",
    "qwen2.5": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello, you.<|im_end|>⟧\n"
    "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n⟦A model\nof words.<|im_end|>⟧\n",
    "gemma2": "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n⟦Hello, you.<end_of_turn>⟧\n"
    "<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n⟦A model\nof words.<end_of_turn>⟧\n",
    "mistral": "<s> [INST] Hi [/INST]⟦ Hello, you.</s>⟧ [INST] Who? [/INST]⟦ A model\nof words.</s>⟧",
    "phi3": "<|user|>\nHi<|end|>\n<|assistant|>\n⟦Hello, you.<|end|>⟧\n"
    "<|user|>\nWho?<|end|>\n<|assistant|>\n⟦A model\nof words.<|end|>⟧\n<|endoftext|>",
    "chatml": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello, you.<|im_end|>⟧\n"
    "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n⟦A model\nof words.<|im_end|>⟧\n",
}
WITH_SYSTEM = {
    "llama3": ("<s><|start_header_id|>user", "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
               "<|start_header_id|>user"),
    "qwen2.5": ("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", "Be brief."),
    "mistral": ("[INST] Hi", "[INST] Be brief.\n\nHi"),
    "phi3": ("<|user|>\nHi", "<|system|>\nBe brief.<|end|>\n<|user|>\nHi"),
    "chatml": ("<|im_start|>user\nHi", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi"),
}  # fmt: skip


def tokens_of(tokenizer: PreTrainedTokenizerBase, marked: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a text and their labels: those of each part by itself, as its marks say."""
    ids, labels = [], []
    for part in re.split("(⟦.*?⟧)", marked, flags=re.DOTALL):
        own = tokenizer(part.strip("⟦⟧"), add_special_tokens=False).input_ids
        ids += own
        labels += own if part.startswith("⟦") else [UNTRAINED] * len(own)
    return ids, labels


def tokenizer_of(family: str) -> PreTrainedTokenizerBase:
    chosen = FAMILIES[family]
    return byte_tokenizer(chosen.template, bos=chosen.bos, eos=chosen.eos)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_and_their_ends_alone_are_trained(family: str) -> None:
    tokenizer = tokenizer_of(family)
    found = encode(tokenizer, Conversation(TALK), "a place")
    assert tuple(found) == tokens_of(tokenizer, EXPECTED[family])
    assert show(tokenizer, *found) == EXPECTED[family]
    plain = str(tokenizer.apply_chat_template([turn.message() for turn in TALK], tokenize=False))
    assert found.input_ids == tokenizer(plain, add_special_tokens=False).input_ids


@pytest.mark.parametrize("family", WITH_SYSTEM)
def test_a_system_turn_is_read_and_not_trained(family: str) -> None:
    tokenizer = tokenizer_of(family)
    found = encode(tokenizer, Conversation((BRIEF, *TALK)), "a place")
    assert tuple(found) == tokens_of(tokenizer, EXPECTED[family].replace(*WITH_SYSTEM[family]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_is_what_comes_before_the_answer(family: str) -> None:
    """A model is asked with exactly the tokens before those that it was trained to give."""
    tokenizer = tokenizer_of(family)
    found = encode(tokenizer, Conversation(TALK), "a place")
    asked = encode_question(tokenizer, Conversation(TALK), "a place")
    assert asked == found.input_ids[: len(asked)]
    assert found.labels[len(asked)] != UNTRAINED
    assert found.labels[len(asked) - 1] == UNTRAINED
    assert len(asked) > len(encode_question(tokenizer, Conversation(TALK[:2]), "a place"))


@pytest.mark.parametrize(
    ("family", "ends"),
    [("llama3", ["<|eot_id|>"]), ("qwen2.5", ["<|im_end|>"]), ("gemma2", ["</s>", "<end_of_turn>"]),
     ("mistral", ["</s>"]), ("phi3", ["<|endoftext|>", "<|end|>"]), ("chatml", ["<|im_end|>"])],
)  # fmt: skip
def test_what_ends_an_answer(family: str, ends: list[str]) -> None:
    tokenizer = tokenizer_of(family)
    assert tokenizer.convert_ids_to_tokens(stop_tokens(tokenizer)) == ends


@pytest.mark.parametrize("family", FAMILIES)
def test_all_is_all_but_the_first_token(family: str) -> None:
    tokenizer = tokenizer_of(family)
    found = encode(tokenizer, Conversation(TALK), "a place", "all")
    assert found.labels[0] == UNTRAINED
    assert found.labels[1:] == found.input_ids[1:]


def test_a_turn_without_weight_is_not_trained() -> None:
    tokenizer = tokenizer_of("chatml")
    turns = (TALK[0], Turn("assistant", "Hello, you.", trains=False), *TALK[2:])
    expected = EXPECTED["chatml"].replace("⟦Hello, you.<|im_end|>⟧", "Hello, you.<|im_end|>")
    assert show(tokenizer, *encode(tokenizer, Conversation(turns), "a place")) == expected


def test_a_template_without_any_marker() -> None:
    """The token that ends texts is added after the last answer: else the model could not learn to stop."""
    tokenizer = byte_tokenizer(BARE)
    found = encode(tokenizer, Conversation(TALK), "a place")
    assert show(tokenizer, *found) == "Hi⟦Hello, you.⟧Who?⟦A model\nof words.</s>⟧"
    assert stop_tokens(tokenizer) == [tokenizer.eos_token_id]


def test_thinking_that_the_template_drops() -> None:
    """An earlier answer is rendered otherwise than as the last; both are found."""
    tokenizer = byte_tokenizer(THINKING, eos="<|im_end|>")
    turns = (
        TALK[0],
        Turn("assistant", "<think>well</think>Hello"),
        TALK[2],
        Turn("assistant", "<think>so</think>A model"),
    )
    found = encode(tokenizer, Conversation(turns), "a place")
    assert show(tokenizer, *found) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello<|im_end|>⟧\n"
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n⟦<think>so</think>A model<|im_end|>⟧\n"
    )


def test_answers_that_repeat_the_question_or_each_other() -> None:
    tokenizer = byte_tokenizer(PHI_3, eos="<|endoftext|>")
    turns = tuple(Turn(role, "a") for role in ("user", "assistant") * 3)
    turn = "<|user|>\na<|end|>\n<|assistant|>\n⟦a<|end|>⟧\n"
    assert show(tokenizer, *encode(tokenizer, Conversation(turns), "a place")) == turn * 3 + "<|endoftext|>"


def test_an_answer_before_any_question() -> None:
    tokenizer = byte_tokenizer(LLAMA_3, eos="<|eot_id|>")
    found = encode(tokenizer, Conversation((Turn("assistant", "Welcome."), TALK[0], TALK[1])), "a place")
    assert show(tokenizer, *found).count("⟦") == 2
    assert "⟦Welcome.<|eot_id|>⟧" in show(tokenizer, *found)


def test_a_model_without_a_template_gets_a_plain_one() -> None:
    tokenizer = byte_tokenizer()
    assert fit_template(tokenizer, None) == [PLAIN_NOTE]
    found = encode(tokenizer, Conversation((BRIEF, *TALK[:2])), "a place")
    assert show(tokenizer, *found) == "Be brief.\n\nUser: Hi\nAssistant:⟦ Hello, you.</s>⟧\n"
    assert fit_template(tokenizer, None) == []  # it has one now
    assert fit_template(tokenizer, QWEN_25) == []
    assert tokenizer.chat_template == QWEN_25


def test_no_end_of_sequence_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token, so the model could not learn where an answer ends"):
        fit_template(tokenizer, None)


def test_raw_prompts_and_completions() -> None:
    tokenizer = byte_tokenizer(CHATML)
    found = encode(tokenizer, Conversation(prompt="2+2=", completion="4"), "a place")
    assert show(tokenizer, *found) == "2+2=⟦4</s>⟧"
    whole = encode(tokenizer, Conversation(prompt="2+2=", completion="4"), "a place", "all")
    assert show(tokenizer, *whole) == "2⟦+2=4</s>⟧"
    assert encode_question(tokenizer, Conversation(prompt="2+2=", completion="4"), "x") == found.input_ids[:4]


@pytest.mark.parametrize(
    ("template", "turns", "message"),
    [
        (GEMMA_2, (BRIEF, *TALK), r"a\.jsonl, line 3: the chat template refuses this conversation \(system, user, "
         r"assistant, user, assistant\): System role not supported\. Change its turns, or give another template by "
         r"--chat-template FILE"),
        (GEMMA_2, (TALK[0], TALK[0], TALK[1]), "roles must alternate"),
        (MISTRAL_LAST, (BRIEF, *TALK), r"line 3: the chat template leaves out what the system says \('Be brief\.'\)"),
        ("{{ messages[0]['content'] | length }}", (TALK[1],), "show where the words of turn 1, the assistant's"),
        ("{{ 1 }}\n{% if %}", TALK, "the chat template is no Jinja template: line 2: Expected an expression"),
        ("{{ bos_token }}", TALK, r"the chat template writes none of the words .*message\['content'\]"),
        ("{{ nothing.at.all }}", TALK, "refuses this conversation .*: 'nothing' is undefined"),
    ],
)  # fmt: skip
def test_what_a_template_refuses(template: str, turns: tuple[Turn, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode(byte_tokenizer(template), Conversation(turns), "a.jsonl, line 3")


def test_a_mask_over_everything_is_refused() -> None:
    """A template that writes the answers alone leaves no prompt."""
    only = "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(DataError, match="leaves out what the user says"):
        encode(byte_tokenizer(only), dialogue("Hi", "Hello"), "a place")
    with pytest.raises(DataError, match="every token would be trained, the prompt's too"):
        encode(byte_tokenizer(only), Conversation((Turn("system", "e"), Turn("assistant", "Hello"))), "a place")
