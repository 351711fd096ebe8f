"""The loss of completions beside transformers' own, in chunks and packed, on models of several families."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
)

from qvtune.tasks.causal import loss
from qvtune.tasks.causal.batches import Collator, pack
from qvtune.tasks.causal.exact import keeps_apart, sees_later_words
from qvtune.tasks.causal.loss import losses_of_logits, token_losses

WORDS = 97
_SAME = {
    "vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SAME, num_key_value_heads=2),
    "gpt2": GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64, attn_pdrop=0, resid_pdrop=0,
                       embd_pdrop=0, bos_token_id=1, eos_token_id=2),
    "phi3": Phi3Config(**_SAME, num_key_value_heads=2, resid_pdrop=0.0, embd_pdrop=0.0),
    "qwen2": Qwen2Config(**_SAME, num_key_value_heads=2, tie_word_embeddings=True),
    "gemma2": Gemma2Config(**_SAME, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0, sliding_window=4,
                           query_pre_attn_scalar=8, attention_dropout=0.0),
    "mistral": MistralConfig(**_SAME, num_key_value_heads=2, sliding_window=5),
    "neox": GPTNeoXConfig(**_SAME, hidden_dropout=0.0, attention_dropout=0.0),
    "cohere": CohereConfig(**_SAME, num_key_value_heads=2, logit_scale=0.3),
}  # fmt: skip


def make_model(name: str, **changes: Any) -> nn.Module:
    torch.manual_seed(3)
    config = CONFIGS[name]
    model = AutoModelForCausalLM.from_config(config, **changes)
    for parameter in model.parameters():  # larger than at the start, so that words matter to each other
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def make_rows(lengths: list[int], seed: int = 0) -> list[dict[str, list[int]]]:
    """Random tokens, of which about the second half of each row is trained, with a gap."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(3, WORDS, (length,), generator=generator).tolist()
        trained = [i > length // 2 and i % 5 != 0 for i in range(length)]
        rows.append({"input_ids": ids, "labels": [t if k else -100 for t, k in zip(ids, trained, strict=True)]})
    return rows


def gradients(model: nn.Module, total: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], limit: float) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-2
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= limit * largest, name


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_transformers_own_loss(name: str) -> None:
    model = make_model(name)
    batch = Collator(0)(make_rows([17, 9, 12, 21]))
    expected = float(model(**batch).loss.detach())
    count = (batch["labels"] != -100).sum()
    found = token_losses(model, batch)
    assert len(found.losses) == count
    assert float(found.losses.detach().sum() / count) == pytest.approx(expected, abs=1e-6)
    assert_same(gradients(model, found.losses.sum() / count), gradients(model, model(**batch).loss), 1e-5)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert torch.allclose(losses_of_logits(logits, batch["labels"]), found.losses, atol=1e-6)
    # each loss is of the row that it says
    for row, length in enumerate([17, 9, 12, 21]):
        alone = model(**Collator(0)([make_rows([17, 9, 12, 21])[row]]))
        assert int((found.rows == row).sum()) == int((batch["labels"][row] != -100).sum()), length
        assert float(found.losses[found.rows == row].detach().mean()) == pytest.approx(
            float(alone.loss.detach()), abs=2e-6
        )


def whole_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return model(**batch).loss * (batch["labels"] != -100).sum()


@pytest.mark.parametrize("name", CONFIGS)
def test_chunks_of_logits_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a model scales or limits its logits; no more than a chunk of them is computed at a time."""
    model = make_model(name)
    model.get_output_embeddings().requires_grad_(False)
    batch = Collator(0)(make_rows([17, 9, 12, 21]))
    whole = token_losses(model, batch).losses
    expected = gradients(model, whole.sum())
    sizes = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, __, out: sizes.append(out.shape[1]))
    monkeypatch.setattr(loss, "LOGIT_BYTES", 4 * 4 * WORDS)
    found = token_losses(model, batch).losses
    hook.remove()
    assert max(sizes) == 4
    assert sum(sizes) == len(whole) > 20
    assert torch.allclose(found, whole, atol=1e-6)
    assert_same(gradients(model, found.sum()), expected, 1e-5)
    model.get_output_embeddings().requires_grad_(True)  # what trains gets its gradient, so all logits are there
    assert_same(
        gradients(model, token_losses(model, batch).losses.sum()), gradients(model, whole_loss(model, batch)), 1e-5
    )


def test_no_logits_where_nothing_is_trained() -> None:
    model = make_model("llama")
    batch = Collator(0)(make_rows([30, 8]))
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape)))
    found = token_losses(model, batch)
    assert seen == [(1, len(found.losses), WORDS)]
    batch["labels"][:] = -100
    assert len(token_losses(model, batch).losses) == 0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_packed_examples_do_not_see_each_other(name: str, attention: str) -> None:
    if name == "gemma2":
        attention = "eager"  # its scores have a soft limit, which "sdpa" has not
    model = make_model(name, attn_implementation=attention)
    rows = make_rows([20, 11, 9, 6, 5, 4])
    plain, packed = Collator(0)(rows), Collator(0, packs=True)(rows)
    assert len(packed["input_ids"]) == 3
    assert "attention_mask" not in packed
    apart, together = token_losses(model, plain).losses, token_losses(model, packed).losses
    assert torch.allclose(apart.sort().values, together.sort().values, atol=1e-5)
    assert_same(gradients(model, together.sum()), gradients(model, token_losses(model, plain).losses.sum()), 1e-5)
    assert keeps_apart(model)
    # the test can fail: in one row without positions of their own they do see each other
    leaking = {"input_ids": packed["input_ids"], "labels": packed["labels"]}
    assert not torch.allclose(together, token_losses(model, leaking).losses, atol=1e-3)


def test_a_model_with_a_state_is_not_packed() -> None:
    torch.manual_seed(0)
    mamba = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, state_size=4, time_step_rank=4)
    )
    assert not keeps_apart(mamba)
    bloom = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=WORDS, hidden_size=16, n_layer=2, n_head=2))
    assert not keeps_apart(bloom)  # it takes no positions


def test_a_model_that_reads_both_ways_is_known() -> None:
    assert not sees_later_words(make_model("llama"))
    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    assert sees_later_words(AutoModelForCausalLM.from_config(bert))


def test_rows_are_filled() -> None:
    assert pack([5, 5, 5]) == [[0], [1], [2]]
    assert pack([3, 10, 4, 6, 3]) == [[1], [3, 2], [0, 4]]
    lengths = torch.randint(1, 50, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    rows = pack(lengths)
    assert sorted(i for row in rows for i in row) == list(range(40))
    assert max(sum(lengths[i] for i in row) for row in rows) == max(lengths)
    assert len(rows) < 1.2 * sum(lengths) / max(lengths) + 1
