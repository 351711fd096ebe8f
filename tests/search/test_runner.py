"""A trial trains as plain transformers does, and gives a model back bit for bit."""

import random
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from searching import make_batches, tiny_model
from torch import nn
from torch.utils.data import DataLoader

import qvtune
from qvtune.roles.unwrap import unwrap
from qvtune.search.recipe import Recipe
from qvtune.search.runner import FORWARD_SHARE, TrialRunner, borrowed
from qvtune.training.objective import Batch, MeanLoss

RATES = {"query": 2e-3, "value": 6e-3, "head": 1e-2}


def own_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    return model(**batch).loss


def make_runner(model: nn.Module, batches: list[dict], **recipe: object) -> TrialRunner:
    return TrialRunner(
        model,
        lambda number: cycle(batches[number:] + batches[:number]),
        batches[:2],
        MeanLoss(own_loss),
        Recipe(**recipe),
    )


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in unwrap(model).named_parameters()}


@pytest.mark.parametrize("method", ["lora", "full", "loraplus"])
def test_it_trains_as_transformers_does(method: str, tmp_path: Path) -> None:
    adapting = {"rank": None} if method == "full" else {"dropout": 0.0}
    batches = make_batches(6)
    ratio = 16.0 if method == "loraplus" else None

    model = tiny_model(0.0, method=method, **adapting)
    groups = qvtune.param_groups(
        model, lr=2e-3, lr_ratio=3.0, head_lr=1e-2, weight_decay=0.1, **({"b_lr_ratio": ratio} if ratio else {})
    )
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-7)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 2, 6)

    class Plain(transformers.Trainer):
        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(batches, batch_size=None)

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, max_grad_norm=0.5, use_cpu=True, logging_steps=1, report_to="none"
    )
    plain = Plain(model=model, args=arguments, train_dataset=batches, optimizers=(optimizer, schedule))
    plain.train()
    wanted = [record["loss"] for record in plain.state.log_history if "loss" in record]

    other = tiny_model(0.0, method=method, **adapting)
    recipe = {"warmup": 2 / 6, "weight_decay": 0.1, "adam_beta2": 0.98, "adam_epsilon": 1e-7, "max_grad_norm": 0.5}
    runner = make_runner(other, batches, **recipe, b_lr_ratio=ratio)
    losses = runner.train(RATES, 6, 0)
    assert losses == pytest.approx(wanted, abs=2e-4)  # transformers logs four digits
    for (name, one), two in zip(weights(model).items(), weights(other).values(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5, msg=name)
    assert runner.cost.in_steps == 6


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    small = make_batches(4, size=4)
    large = [{name: torch.cat([a[name], b[name]]) for name in a} for a, b in zip(small[::2], small[1::2], strict=True)]
    models = tiny_model(0.0, dropout=0.0), tiny_model(0.0, dropout=0.0)
    one = make_runner(models[0], small, accumulation=2).train(RATES, 2, 0)
    two = make_runner(models[1], large).train(RATES, 2, 0)
    assert one == pytest.approx(two, abs=1e-6)
    for first, second in zip(weights(models[0]).values(), weights(models[1]).values(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)


def test_the_model_left_alone_has_the_losses_of_training_at_no_rate() -> None:
    runner = make_runner(tiny_model(0.3), make_batches(5))
    moved = runner.train({"value": 1.0}, 5, 1, schedule=[0.0] * 5)
    assert runner.losses(5, 1) == moved
    assert runner.losses(5, 2) != moved
    assert runner.cost.in_steps == pytest.approx(5 + 10 * FORWARD_SHARE)


def test_one_step_changes_the_output_through_each_side() -> None:
    model = tiny_model(roles="qkv")
    runner = make_runner(model, make_batches(3))
    start = runner.snapshot()
    small = runner.output_changes({"query": 1e-5, "key": 1e-5, "value": 1e-5}, 0)
    assert set(small) == {"query", "key", "value", "query_key"}
    runner.restore(start)
    twice = runner.output_changes({"query": 1e-5, "key": 1e-5, "value": 2e-5}, 0)
    assert twice["value"] == pytest.approx(2 * small["value"], rel=1e-3)
    assert twice["query_key"] == pytest.approx(small["query_key"], rel=1e-3)


def test_what_is_not_named_stays() -> None:
    model = tiny_model()
    before = weights(model)
    make_runner(model, make_batches(3)).train({"value": 1e-2}, 3, 0)
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert moved
    assert all(".value." in name for name in moved)


def test_training_stops_at_the_first_loss_that_is_not_finite() -> None:
    model = tiny_model()
    runner = make_runner(model, make_batches(4))
    losses = runner.train(RATES, 4, 0, schedule=[1.0, float("inf"), 1.0, 1.0])
    assert len(losses) == 3
    assert np.isfinite(losses[:2]).all()
    assert not np.isfinite(losses[2])
    assert runner.validate() == []


METHODS = ["lora", "dora", "adalora", "ia3", "vera", "full", "galore", "bitfit", "head"]


@pytest.mark.parametrize("method", METHODS)
def test_a_snapshot_is_restored_and_trains_the_same_again(method: str) -> None:
    model = tiny_model(method=method, rank=None, **({"total_steps": 20} if method == "adalora" else {}))
    runner = make_runner(model, make_batches(6))
    rates = dict.fromkeys(runner.groups, 0.01)
    with borrowed(model):
        start = runner.snapshot()
        first = runner.train(rates, 6, 0)
        after = weights(model)
        assert runner.train(rates, 6, 0) != first
        runner.restore(start)
        assert runner.train(rates, 6, 0) == first
        assert all(torch.equal(value, after[name]) for name, value in weights(model).items())


@pytest.mark.parametrize("ending", ["done", "interrupted"])
def test_a_borrowed_model_comes_back_bit_for_bit(ending: str) -> None:
    model = tiny_model()
    batches = make_batches(8)
    optimizer = torch.optim.AdamW(qvtune.param_groups(model, lr=1e-3))
    for batch in batches[:3]:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()
    model.base_model.model.classifier.train()

    def everything() -> dict:
        moments = {
            i: {k: torch.as_tensor(v).clone() for k, v in s.items()} for i, s in enumerate(optimizer.state.values())
        }
        return {
            "weights": {name: value.clone() for name, value in model.state_dict().items()},
            "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
            "moments": moments,
            "modes": [module.training for module in model.modules()],
            "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        }

    def stopping(module: nn.Module, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if ending == "interrupted" and calls == 4:
            raise KeyboardInterrupt
        random.random(), np.random.rand()
        return module(**batch).loss

    calls = 0
    before = everything()
    with_handles = [parameter.data_ptr() for parameter in model.parameters()]
    try:
        with borrowed(model):
            runner = TrialRunner(model, lambda number: cycle(batches), batches[:2], MeanLoss(stopping), Recipe())
            runner.train(RATES, 6, 0)
            runner.validate()
    except KeyboardInterrupt:
        assert ending == "interrupted"
    else:
        assert ending == "done"
    assert [parameter.data_ptr() for parameter in model.parameters()] == with_handles
    torch.testing.assert_close(everything(), before, atol=0, rtol=0, equal_nan=True)


def test_batches_are_drawn_one_at_a_time() -> None:
    drawn = []

    def supply(number: int) -> Iterator[Batch]:
        for place, batch in enumerate(cycle(make_batches(2))):
            drawn.append(place)
            yield batch

    TrialRunner(tiny_model(), supply, make_batches(1), MeanLoss(own_loss), Recipe()).train(RATES, 3, 0)
    assert drawn == [0, 1, 2]
