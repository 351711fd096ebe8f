"""The parts that keep something of a model, or of the random state, beside it."""

from pathlib import Path

import pytest
import torch
from tiny import save_tiny_bert
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig

import qvtune
from qvtune.device import choose_device, place
from qvtune.fast.precision import full_precision, in_full, narrow, widen
from qvtune.search.recipe import Recipe
from qvtune.search.runner import TrialRunner, borrowed
from qvtune.training.objective import MeanLoss
from qvtune.training.output_change import OutputMeter
from qvtune.training.seeds import kept_random_state
from qvtune.training.updates import UpdateMeter, step_sizes

DEVICE = torch.device("pretend", 0)


@pytest.fixture
def model(tmp_path: Path) -> nn.Module:
    torch.manual_seed(0)
    return qvtune.adapt(AutoModelForSequenceClassification.from_pretrained(save_tiny_bert(tmp_path / "bert")), rank=4)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("order", ["narrow, then move", "move, then narrow"])
def test_originals_follow_the_model(model: nn.Module, order: str) -> None:
    before = state_of(model)
    if order.startswith("narrow"):
        narrow(model)
    model.to(DEVICE)
    narrow(model)
    held = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert torch.bfloat16 in held
    full = in_full(model)
    assert {value.device for value in full.values()} == {DEVICE}
    state = model.state_dict()
    assert {value.device for value in state.values()} == {DEVICE}
    assert all(torch.equal(state[name].cpu(), value) for name, value in before.items())
    with full_precision(model):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert {p.device for p in model.parameters()} == {DEVICE}
    assert torch.bfloat16 in {p.dtype for p in model.parameters()}
    model.cpu()
    widen(model)
    after = state_of(model)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_meters_measure_where_the_model_is(model: nn.Module) -> None:
    found = []
    ids, labels = torch.arange(16).view(2, 8) % 20, torch.tensor([0, 1])
    start = state_of(model)
    for device in (torch.device("cpu"), DEVICE):
        model.to(device).load_state_dict(start)
        qvtune.make_fast(model, precision="fp32")
        narrow(model)
        moved, outputs = UpdateMeter(model), OutputMeter(model)
        optimizer = torch.optim.AdamW(qvtune.param_groups(model, lr=1e-3))
        model.train()
        with outputs.watching(), torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=ids.to(device), labels=labels.to(device)).loss
        loss.backward()
        before = outputs.weights()
        optimizer.step()
        model.zero_grad()
        found.append(moved.measure() | step_sizes(model, before) | outputs.measure(before))
        qvtune.undo_fast(model)
    assert found[0].keys() == found[1].keys() == {"query", "value"}
    assert all(value > 0 for value in found[1].values())


def test_random_state_of_the_device_is_kept() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4, device=DEVICE).cpu(), torch.rand(4)
    torch.manual_seed(1)
    with kept_random_state(DEVICE):
        torch.rand(7, device=DEVICE)
        torch.rand(7)
    assert torch.equal(torch.rand(4, device=DEVICE).cpu(), expected[0])
    assert torch.equal(torch.rand(4), expected[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_trial_trains_and_gives_back(model: nn.Module, precision: str) -> None:
    place(model, DEVICE)
    batches = [{"input_ids": torch.randint(5, 25, (4, 6)), "labels": torch.tensor([0, 1, 0, 1])} for _ in range(6)]

    def supply(number: int):
        while True:
            yield from batches

    start = state_of(model)
    loss = lambda model, batch: model(**batch).loss  # noqa: E731
    runner = TrialRunner(model, supply, batches[:2], MeanLoss(loss), Recipe(precision=precision))
    torch.manual_seed(4)
    follows = torch.rand(2, device=DEVICE).cpu()
    torch.manual_seed(4)
    with borrowed(model):
        losses = runner.train({"query": 1e-2, "value": 1e-2, "head": 1e-2}, 6, 0)
        assert len(losses) == 6
        assert losses[-1] < losses[0]
        assert all(value > 0 for value in runner.output_changes({"query": 1e-3, "value": 1e-3}, 1).values())
        assert len(runner.validate()) == 2
    assert all(torch.equal(value, start[name]) for name, value in state_of(model).items())
    assert torch.equal(torch.rand(2, device=DEVICE).cpu(), follows)


def test_a_step_whose_gradients_overflow_is_taken_again(model: nn.Module) -> None:
    place(model, DEVICE)
    batch = {"input_ids": torch.randint(5, 25, (4, 6)), "labels": torch.tensor([0, 1, 0, 1])}

    def supply(number: int):
        while True:
            yield batch

    large = lambda model, batch: model(**batch).loss * 1e5  # noqa: E731
    runner = TrialRunner(model, supply, [batch], MeanLoss(large), Recipe(precision="fp16"))
    before = runner.snapshot()
    runner.train({"query": 1e-2, "value": 1e-2, "head": 1e-2}, 1, 0, schedule=[1.0])
    assert runner.cost.steps > 1
    assert any(not torch.equal(value, before[name]) for name, value in runner.snapshot().items())


def test_suggest_rates_on_a_model_that_is_there(tmp_path: Path) -> None:
    from transformers import BertForSequenceClassification

    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=60)
    torch.manual_seed(0)
    model = qvtune.adapt(BertForSequenceClassification(config).to(DEVICE), rank=4)
    batches = [{"input_ids": torch.randint(5, 60, (8, 6)), "labels": torch.arange(8) % 2} for _ in range(8)]
    found = qvtune.suggest_rates(model, batches, batches[:2], full_steps=400, budget=400)
    assert found.lr > 0


def test_a_process_has_the_device_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device() == DEVICE
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert choose_device() == DEVICE
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(qvtune.QVTuneError, match="process 1 of its machine"):
        choose_device()
