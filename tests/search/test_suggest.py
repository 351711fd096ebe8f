"""`suggest` and `suggest_rates` from end to end on a tiny model."""

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from searching import make_batches, tiny_model
from tiny import save_tiny_gpt2, save_tiny_llama, write_reviews
from torch.utils.data import DataLoader
from transformers import AutoModel

import qvtune
from qvtune.errors import ConfigError, DataError, DivergedError, Interrupted, RunError
from qvtune.methods.table import METHODS
from qvtune.report.search_page import SearchReport
from qvtune.roles.find import find_attention
from qvtune.search.budget import parse_budget
from qvtune.search.finder import make_sides
from qvtune.search.runner import TrialRunner
from qvtune.search.suggest import MEASURED, RESULT
from qvtune.search.trials import chosen

QUIET = Console(quiet=True)


def test_it_finds_rates_and_keeps_to_the_budget(options: dict, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    found = qvtune.suggest(options, budget=600, out=tmp_path / "s", console=QUIET)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert [test.rate for test in found.ranges] == ["head_lr", "lr", "value_lr"]
    assert found.cost["in_steps"] <= 600
    assert found.cost["part"] == pytest.approx(found.cost["in_steps"] / (4 * 45))
    best = min(found.trials, key=lambda trial: trial.loss)
    taken = found.choice.rates
    assert found.choice == chosen(found.trials)
    assert found.trials[0].rates == {"lr": 1e-3, "value_lr": 4e-3, "head_lr": 1e-3}  # LoRA's own
    assert found.lr == pytest.approx(taken["lr"] * found.shrunk, rel=5e-3)
    assert found.head_lr == pytest.approx(taken["head_lr"] * found.shrunk, rel=5e-3)
    assert found.lr * found.lr_ratio == pytest.approx(taken["value_lr"] * found.shrunk, rel=1e-2)
    assert 0.5 <= found.confidence.probability <= 1 or found.confidence.level == "low"
    written = json.loads((tmp_path / "s" / RESULT).read_text())
    assert (written["lr"], written["lr_ratio"], written["head_lr"]) == (found.lr, found.lr_ratio, found.head_lr)
    # The reviews are told apart by single words, which the rates found must learn.
    assert best.loss < 0.8 * math.log(2)


def test_an_interrupted_search_goes_on_to_the_same_end(
    options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options |= {"head_lr": 1e-2, "lr_ratio": 4.0}
    straight = qvtune.suggest(options, budget=400, out=tmp_path / "one", console=QUIET)
    train, calls = TrialRunner.train, []

    def interrupted(self: TrialRunner, *args: object, **kwargs: object) -> list[float]:
        calls.append(args)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return train(self, *args, **kwargs)

    monkeypatch.setattr(TrialRunner, "train", interrupted)
    stops, said = 0, io.StringIO()
    while True:
        try:
            resumed = qvtune.suggest(options, budget=400, out=tmp_path / "two", console=Console(file=said))
            break
        except Interrupted:
            stops += 1
            with open(tmp_path / "two" / MEASURED, "a", encoding="utf-8") as file:
                file.write('{"name": "cut of')  # as a kill leaves it
    assert stops > 1
    told = [int(steps) for steps in re.findall(r"Going on: (\d+) steps of it, in \d+ parts", said.getvalue())]
    assert told == sorted(told)
    assert len(set(told)) > 1
    one, two = straight.to_dict(), resumed.to_dict()
    for found in (one, two):
        found["cost"].pop("seconds")
    assert one == two


def test_the_same_call_gives_the_same_and_another_seed_does_not(options: dict, tmp_path: Path) -> None:
    options |= {"head_lr": 1e-2, "lr": 1e-3}
    losses = []
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        found = qvtune.suggest(options | {"seed": seed}, budget=300, out=tmp_path / name, console=QUIET)
        losses.append([trial.loss for trial in found.trials])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"roles": "v"}, {}),
        ({"roles": "qk", "head_lr": 1e-2}, {"head_lr": 1e-2}),
        ({"lr": 1e-3, "head_lr": 1e-2}, {"lr": 1e-3, "head_lr": 1e-2}),
        ({"lr_ratio": 5.0, "head_lr": 1e-2}, {"lr_ratio": 5.0}),
        ({"lr": 1e-3, "lr_ratio": 5.0}, {"lr": 1e-3, "lr_ratio": 5.0}),
        ({"value_lr": 2e-3, "head_lr": 1e-2}, {"head_lr": 1e-2}),
        ({"method": "full", "batch_tokens": 64, "batch_size": None, "head_lr": 1e-3}, {"head_lr": 1e-3}),
        ({"method": "adalora", "lr_ratio": 2.0, "accumulation": 2, "fast": False, "head_lr": 1e-3}, {"lr_ratio": 2.0}),
        ({"method": "head"}, {}),
    ],
    ids=str,
)
def test_rates_that_are_given_stay(options: dict, given: dict, kept: dict) -> None:
    found = qvtune.suggest(options | given, budget=500, console=QUIET)
    for name, value in kept.items():
        assert getattr(found, name) == value
    if given.get("roles") == "v" or given.get("method") == "head":
        assert found.lr_ratio == 1.0
    if "value_lr" in given:
        assert found.lr * found.lr_ratio == pytest.approx(given["value_lr"], rel=5e-3)
    assert all(math.isfinite(rate) and rate > 0 for rate in (found.lr, found.lr_ratio, found.head_lr or 1.0))


@pytest.mark.parametrize(("save", "layout"), [(save_tiny_gpt2, "blocks"), (save_tiny_llama, "separate")])
def test_fused_and_grouped_query_models(save: Callable, layout: str, options: dict, tmp_path: Path) -> None:
    options |= {"model": str(save(tmp_path / "model")), "head_lr": 1e-2}
    found = qvtune.suggest(options, budget=400, console=QUIET)
    assert find_attention(AutoModel.from_pretrained(options["model"])).layers[0].layout == layout
    assert [test.groups for test in found.ranges] == [("query",), ("value",)]
    assert all(math.isfinite(rate) and 1e-7 < rate < 1 for rate in (found.lr, found.lr * found.lr_ratio))
    assert found.balance is not None
    assert found.balance > 0


@pytest.mark.parametrize(
    ("change", "budget", "message"),
    [
        ({}, "a lot", "the budget is 'a lot'; it should be a number of steps, as in 500"),
        ({}, "-5%", "the budget is '-5%'"),
        ({"lr": 1e-3, "lr_ratio": 2.0, "head_lr": 1e-3}, None, "every rate is given"),
        ({"method": "head", "lr": 1e-3}, None, "every rate is given"),
        ({"query_lr": 1e-3}, None, "--query-lr is given; a search has one rate for all roles but the value"),
        ({"roles": "qx"}, None, "unknown role 'x'"),
        ({"max_train_samples": 20}, None, "leaves 20 examples to train on, 2 batches of 8"),
        ({"tune_fraction": 0.01}, None, "to judge rates by"),
        ({"layers": [7]}, None, "layer 7 does not exist"),
    ],
    ids=str,
)
def test_bad_input(options: dict, change: dict, budget: str | None, message: str) -> None:
    with pytest.raises((ConfigError, DataError, ValueError)) as caught:
        qvtune.suggest(options | change, budget=budget, console=QUIET)
    assert message in str(caught.value)


def test_a_small_budget_buys_what_it_can(options: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trials without range tests, and where not even two fit, the method's own rates."""
    method = METHODS["lora"]
    own = {"lr": method.lr, "value_lr": method.lr * method.lr_ratio, "head_lr": method.lr}
    found = qvtune.suggest(options, budget=100, out=tmp_path / "some", console=QUIET)
    assert found.ranges == ()
    assert len(found.trials) >= 2
    assert found.trials[0].rates == own
    assert len({tuple(trial.rates.values()) for trial in found.trials}) == len(found.trials)
    assert 0 < found.cost["in_steps"] <= 100
    assert "too small for range tests, which need" in found.notes[0]
    assert found.confidence.probability is not None
    none = qvtune.suggest(options, budget=5, out=tmp_path / "none", console=QUIET)
    assert (none.ranges, none.trials, none.cost["in_steps"]) == ((), (), 0)
    assert none.choice.rates == own
    assert (none.lr, none.lr_ratio, none.head_lr) == (method.lr, method.lr_ratio, method.lr)
    assert (none.confidence.level, none.confidence.probability) == ("none", None)
    assert "Nothing was compared: two trials need" in none.notes[1]
    least = int(re.search(r"need (\d+) steps", none.notes[1])[1])
    assert len(qvtune.suggest(options, budget=least, console=QUIET).trials) == 2
    assert qvtune.suggest(options, budget=least - 1, console=QUIET).trials == ()
    for name, suggestion in (("some", found), ("none", none)):
        report = SearchReport("reviews", suggestion)
        assert (tmp_path / name / "report.html") in report.write(tmp_path / name)
        assert "untested" in " ".join(report.sentences()) or name == "some"


def test_options_that_are_none() -> None:
    with pytest.raises(ConfigError, match="options is None"):
        qvtune.suggest(None)


def test_a_loss_that_is_nan_before_any_step() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DivergedError, match="the loss is nan before any step"):
        qvtune.suggest_rates(
            model,
            make_batches(4),
            make_batches(4),
            full_steps=100,
            loss=lambda model, batch: model(**batch).loss * math.nan,
            console=QUIET,
        )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_trial_diverges() -> None:
    batches = make_batches(4)
    with pytest.raises(DivergedError, match=r"every trial diverged, at .*lr 0\.0"):
        qvtune.suggest_rates(
            tiny_model(),
            batches,
            [{**batch, "labels": batch["labels"], "judged": True} for batch in batches],
            full_steps=100,
            loss=lambda model, batch: (
                model(**{k: v for k, v in batch.items() if k != "judged"}).loss
                * (math.nan if "judged" in batch else 1.0)
            ),
            console=QUIET,
        )


def test_a_folder_of_another_search_is_refused(options: dict, tmp_path: Path, place: Path) -> None:
    options |= {"head_lr": 1e-2, "lr": 1e-3}
    qvtune.suggest(options, budget=300, out=tmp_path, console=QUIET)
    with pytest.raises(RunError, match="is of a search with another model, data or options"):
        qvtune.suggest(options | {"rank": 2}, budget=300, out=tmp_path, console=QUIET)
    write_reviews(tmp_path / "reviews.csv", 402)
    with pytest.raises(RunError, match="is of a search with another model, data or options"):
        qvtune.suggest(options | {"data": str(tmp_path / "reviews.csv")}, budget=300, out=tmp_path, console=QUIET)
    (tmp_path / MEASURED).write_text("nothing\n")
    with pytest.raises(RunError, match="is damaged"):
        qvtune.suggest(options, budget=300, out=tmp_path, console=QUIET)


def test_a_folder_of_something_else_is_refused(options: dict, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("of a run")
    with pytest.raises(RunError, match=r"is not empty and holds no measured\.jsonl"):
        qvtune.suggest(options, out=tmp_path, console=QUIET)
    with pytest.raises(RunError, match="is a file"):
        qvtune.suggest(options, out=tmp_path / "report.html", console=QUIET)
    assert (tmp_path / "report.html").read_text() == "of a run"


def test_a_loop_of_ones_own() -> None:
    model = tiny_model()
    rows = [{name: value[i] for name, value in batch.items()} for batch in make_batches(12) for i in range(8)]
    loader = DataLoader(rows, batch_size=8, shuffle=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = [
        qvtune.suggest_rates(
            model, loader, make_batches(8, seed=4), full_steps=200, budget=400, head_lr=1e-2, console=QUIET
        )
        for _ in range(2)
    ]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [t.loss for t in calls[0].trials] == [t.loss for t in calls[1].trials]
    assert calls[0].head_lr == 1e-2
    # Rates that learn: with them the loss of a short run falls below that of the labels alone.
    assert min(trial.loss for trial in calls[0].trials) < math.log(2)


def test_mistakes_in_a_loop_of_ones_own() -> None:
    batches = make_batches(4)
    plain = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"Call qvtune\.adapt first"):
        qvtune.suggest_rates(plain, batches, batches, full_steps=10)
    with pytest.raises(ConfigError, match="can be read once"):
        qvtune.suggest_rates(tiny_model(), iter(batches), batches, full_steps=10)
    with pytest.raises(ConfigError, match="validation has 0 batches"):
        qvtune.suggest_rates(tiny_model(), batches, [], full_steps=10)
    with pytest.raises(ConfigError, match="batches has 3 batches; a search needs 4"):
        qvtune.suggest_rates(tiny_model(), batches[:3], batches, full_steps=10)
    with pytest.raises(ConfigError, match="validation is None"):
        qvtune.suggest_rates(tiny_model(), batches, None, full_steps=10)
    with pytest.raises(ConfigError, match="batches of type tuple"):
        qvtune.suggest_rates(tiny_model(), [tuple(batch.values()) for batch in batches], batches, full_steps=10)
    for wrong, message in {
        "recipe": "recipe is 'cosine'",
        "lr": "lr is 'cosine'; it should be a number above 0",
        "full_steps": "full_steps is 'cosine'",
        "budget": "the budget is 'cosine'",
    }.items():
        with pytest.raises(ConfigError, match=message):
            qvtune.suggest_rates(tiny_model(), batches, batches, **{"full_steps": 10, wrong: "cosine"})
    with pytest.raises(ConfigError, match=r"'linear', 'constant' or 'cosine'"):
        qvtune.Recipe(schedule="cosin")
    without = [{name: value for name, value in batch.items() if name != "labels"} for batch in batches]
    with pytest.raises(ConfigError, match="returns no loss"):
        qvtune.suggest_rates(tiny_model(), without, without, full_steps=10, console=QUIET)


def test_budgets() -> None:
    assert parse_budget("25%", 2000).steps == 500
    assert parse_budget(300, 2000).part == 0.15
    assert parse_budget(None, 10_000).steps == 2500
    assert parse_budget(None, 100).steps == 600


def test_sides() -> None:
    def shown(groups: list[str], ratio: float | None = None) -> dict:
        return {side.rate: side.groups for side in make_sides(groups, ratio)}

    assert shown(["query", "value", "head"]) == {
        "lr": {"query": 1.0},
        "value_lr": {"value": 1.0},
        "head_lr": {"head": 1.0},
    }
    assert shown(["query", "key", "value"], 4.0) == {"lr": {"query": 1.0, "key": 1.0, "value": 4.0}}
    assert shown(["value"], 4.0) == {"value_lr": {"value": 1.0}}
