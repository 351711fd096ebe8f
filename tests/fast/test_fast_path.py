"""Accelerated models beside the same models as transformers and PEFT have them."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from kernels import leave_out_kernels
from rounding import Exact
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

import qvtune
from qvtune.errors import ConfigError
from qvtune.fast.cpu.pooled import FirstPositionLayer
from qvtune.fast.dropout import FastDropout
from qvtune.fast.lora import FastLora

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
COMMON = {**SIZES, "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 0}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**COMMON)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**COMMON)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=100)
    ),
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**COMMON, num_key_value_heads=2)),
    "gpt2": lambda: GPT2ForSequenceClassification(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    ),
    "t5": lambda: T5ForSequenceClassification(
        T5Config(d_model=32, d_kv=8, num_layers=2, num_heads=4, d_ff=64, vocab_size=100, decoder_start_token_id=0)
    ),
    "deberta-v2": lambda: DebertaV2ForSequenceClassification(DebertaV2Config(**COMMON)),
    "albert": lambda: AlbertForSequenceClassification(AlbertConfig(**COMMON, embedding_size=16)),
}
POOLED = ("bert", "roberta", "distilbert")


def make_model(name: str, *, dropout: float = 0.0, method: str = "lora") -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]()
    options = {} if method == "full" else {"dropout": dropout}
    model = qvtune.adapt(model, roles="qv", method=method, **options)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.normal_()
    return model.train() if dropout else without_dropout(model)


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for attribute in ("p", "dropout", "attn_dropout", "dropout_rate"):
            if isinstance(vars(module).get(attribute), float):
                setattr(module, attribute, 0.0)
    return model.train()


def make_batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 100, (4, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[:, -1] = 1  # T5 pools at the end of the text
    ids[1, -4:], mask[1, -4:], ids[1, -5] = 0, 0, 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 0, 1])}


def loss_and_gradients(model: nn.Module, seed: int = 3) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(seed)
    loss = model(**make_batch()).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def exactly(compute: Callable[[nn.Module], dict[str, torch.Tensor]], model: nn.Module) -> Exact:
    twin = copy.deepcopy(model).double()
    return Exact.of(lambda: compute(twin))


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_the_same(name: str, method: str, either: str) -> None:
    plain = make_model(name, method=method)
    fast = qvtune.make_fast(copy.deepcopy(plain))
    own = any(hasattr(type(module), "qvtune_plain") for module in fast.modules())
    assert own or fast.config._attn_implementation == "qvtune", "nothing was accelerated"
    exactly(loss_and_gradients, plain).accept(loss_and_gradients(fast), loss_and_gradients(plain))


@pytest.mark.parametrize("name", MODELS)
def test_last_layer_is_shortened_where_the_first_position_is_pooled(name: str) -> None:
    model = qvtune.make_fast(make_model(name))
    shortened = [module for module in model.modules() if isinstance(module, FirstPositionLayer)]
    assert len(shortened) == (name in POOLED)


@pytest.mark.parametrize("name", POOLED)
def test_hidden_states_are_whole_where_they_are_asked_for(name: str) -> None:
    plain = make_model(name).eval()
    fast = qvtune.make_fast(copy.deepcopy(plain))
    batch = {key: value for key, value in make_batch().items() if key != "labels"}
    real = batch["attention_mask"].bool()

    def states(model: nn.Module) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            asked = model(**batch, output_hidden_states=True).hidden_states[-1]
            return {"asked": asked[real], "body": model.get_base_model().base_model(**batch).last_hidden_state[real]}

    exactly(states, plain).accept(states(fast), states(plain))


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("name", MODELS)
def test_kernels_and_torch_train_alike_under_dropout(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = loss_and_gradients(qvtune.make_fast(make_model(name, dropout=0.1)))
    leave_out_kernels(monkeypatch)
    by_torch = qvtune.make_fast(make_model(name, dropout=0.1))
    exactly(loss_and_gradients, by_torch).accept(kernels, loss_and_gradients(by_torch))


def test_dropout_drops_and_is_seeded(either: str) -> None:
    model = qvtune.make_fast(make_model("bert", dropout=0.1))
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model(**make_batch()).loss.item())
    assert losses[0] == losses[1] != losses[2]


def test_checkpointed_activations_meet_the_same_masks(either: str) -> None:
    model = qvtune.make_fast(make_model("bert", dropout=0.1))
    exact, kept = exactly(loss_and_gradients, model), loss_and_gradients(model)
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    exact.accept(loss_and_gradients(model), kept)
    assert exact.refuse(loss_and_gradients(model, seed=4), kept), "other masks must not pass"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_decelerate_gives_every_module_back(name: str, precision: str) -> None:
    model = make_model(name)
    classes = {path: type(module) for path, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    implementation = model.config._attn_implementation
    qvtune.undo_fast(qvtune.make_fast(model, precision=precision))
    assert {path: type(module) for path, module in model.named_modules()} == classes
    assert model.config._attn_implementation == implementation
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_restore_undoes_it_and_keeps_what_was_trained(method: str) -> None:
    plain, fast = make_model("bert", method=method), make_model("bert", method=method)
    fast = qvtune.make_fast(fast, precision="bf16")
    expected, restored = qvtune.restore(plain), qvtune.restore(fast)
    assert type(restored) is BertForSequenceClassification
    for (name, a), (_, b) in zip(restored.state_dict().items(), expected.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_a_copy_is_accelerated_too_and_apart() -> None:
    model = qvtune.make_fast(make_model("bert"))
    twin = copy.deepcopy(model)
    qvtune.undo_fast(model)
    kinds = {type(module) for module in twin.modules()}
    assert {FastDropout, FastLora} <= kinds
    exactly(loss_and_gradients, model).accept(loss_and_gradients(twin), loss_and_gradients(model))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_second_call_changes_nothing(precision: str) -> None:
    model = qvtune.make_fast(make_model("bert"), precision=precision)
    classes = {path: type(module) for path, module in model.named_modules()}
    kinds = {path: parameter.dtype for path, parameter in model.named_parameters()}
    qvtune.make_fast(model, precision=precision)
    assert {path: type(module) for path, module in model.named_modules()} == classes
    assert {path: parameter.dtype for path, parameter in model.named_parameters()} == kinds
    qvtune.undo_fast(model)
    assert not any(hasattr(type(module), "qvtune_plain") for module in model.modules())


def test_threads_do_not_meet_in_the_last_layer(either: str) -> None:
    model = qvtune.make_fast(make_model("bert")).eval()
    texts = [torch.randint(3, 100, (2, length)) for length in (4, 9, 30, 50) * 2]

    def logits(ids: torch.Tensor, model: nn.Module = model) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids).logits

    alone = {str(number): logits(ids) for number, ids in enumerate(texts)}
    exact = exactly(lambda twin: {number: logits(texts[int(number)], twin) for number in alone}, model)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(logits, texts * 12))
    for start in range(0, len(found), len(texts)):
        exact.accept(dict(zip(alone, found[start:], strict=False)), alone)


def test_a_saved_adapter_is_that_of_the_plain_model(tmp_path: Path) -> None:
    model = make_model("bert")
    qvtune.save_adapter(model, tmp_path / "plain")
    qvtune.save_adapter(qvtune.make_fast(model, precision="bf16"), tmp_path / "fast")
    saved = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("plain", "fast")]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


def test_models_without_an_adapter_compute_the_same(either: str) -> None:
    torch.manual_seed(0)
    plain = without_dropout(MODELS["bert"]()).eval()
    fast = qvtune.make_fast(copy.deepcopy(plain))
    exactly(loss_and_gradients, plain).accept(loss_and_gradients(fast), loss_and_gradients(plain))


@pytest.mark.parametrize("ids", [[[7]], [[7, 8, 9]], [[7], [9]]], ids=str)
def test_the_shortest_texts(ids: list[list[int]], either: str) -> None:
    plain = make_model("bert").eval()
    fast = qvtune.make_fast(copy.deepcopy(plain))

    def logits(model: nn.Module) -> dict[str, torch.Tensor]:
        return {"logits": model(input_ids=torch.tensor(ids)).logits}

    exactly(logits, plain).accept(logits(fast), logits(plain))


def test_a_head_size_that_fills_no_vector(either: str) -> None:
    torch.manual_seed(0)
    sizes = {**COMMON, "hidden_size": 36}
    plain = qvtune.adapt(BertForSequenceClassification(BertConfig(**sizes)), roles="qv", dropout=0.0)
    plain = without_dropout(plain)
    fast = qvtune.make_fast(copy.deepcopy(plain))
    exactly(loss_and_gradients, plain).accept(loss_and_gradients(fast), loss_and_gradients(plain))


def test_padding_before_the_text(either: str) -> None:
    plain = make_model("llama").eval()
    fast = qvtune.make_fast(copy.deepcopy(plain))
    batch = {"input_ids": make_batch()["input_ids"], "attention_mask": torch.ones(4, 12, dtype=torch.long)}
    batch["input_ids"][0, :5], batch["attention_mask"][0, :5] = 0, 0
    real = batch["attention_mask"].bool()

    def states(model: nn.Module) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            states = model.get_base_model().model(**batch).last_hidden_state
        assert states.isfinite().all()
        return {"real": states[real]}

    exactly(states, plain).accept(states(fast), states(plain))


def test_rounding_moves_a_gradient_less_than_another_mask_does() -> None:
    def gradients(precision: str, seed: int) -> dict[str, torch.Tensor]:
        model = qvtune.make_fast(make_model("bert", dropout=0.1), precision=precision)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return loss_and_gradients(model, seed)

    exact, rounded, other = gradients("fp32", 1), gradients("bf16", 1), gradients("fp32", 2)
    matrices = {name: gradient for name, gradient in exact.items() if "lora_" in name}
    assert len(matrices) == 8
    for name, gradient in matrices.items():
        assert (rounded[name] - gradient).norm() < 0.2 * (other[name] - gradient).norm(), name


def test_bf16_is_near_fp32() -> None:
    plain = make_model("bert")
    fast = qvtune.make_fast(copy.deepcopy(plain), precision="bf16")
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_and_gradients(fast)["loss"].item()
    assert found == pytest.approx(loss_and_gradients(plain)["loss"].item(), rel=2e-2)


def test_columns_of_a_batch_are_still_read_from_the_signature() -> None:
    import inspect

    model = qvtune.make_fast(make_model("bert"))
    assert "token_type_ids" in inspect.signature(model.get_base_model().forward).parameters


def test_unknown_precision() -> None:
    with pytest.raises(ConfigError, match="precision is 'bf8'"):
        qvtune.make_fast(make_model("bert"), precision="bf8")


def test_models_that_are_not_of_transformers() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    assert type(qvtune.make_fast(model)[1]) is FastDropout
    assert type(qvtune.undo_fast(model)[1]) is nn.Dropout
