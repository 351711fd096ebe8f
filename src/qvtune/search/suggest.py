"""`suggest`: learning rates for a configuration, its data and its model."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from qvtune.arguments import as_options
from qvtune.cache import writable_cache
from qvtune.device import choose_device, device_of
from qvtune.errors import ConfigError, Interrupted
from qvtune.files import write_json
from qvtune.methods.adapted import adaptation_of
from qvtune.methods.table import METHODS
from qvtune.progress import Meter
from qvtune.rates import Rates
from qvtune.search.budget import VALIDATION_PART, Budget, parse_budget
from qvtune.search.finder import Finder
from qvtune.search.given import HEAD_LR, LR, VALUE_LR, checked_rate, given_rates, without_auto
from qvtune.search.journal import Journal
from qvtune.search.material import FEWEST_BATCHES, make_material
from qvtune.search.recipe import Recipe
from qvtune.search.runner import FORWARD_SHARE, Cost, TrialRunner, borrowed
from qvtune.search.suggestion import Suggestion
from qvtune.search.trials import MOST, RateByName
from qvtune.tasks.examples import TUNING
from qvtune.tasks.files import file_digests
from qvtune.training.config import TrainConfig, make_config
from qvtune.training.folder import check_free
from qvtune.training.objective import Batch, Loss, MeanLoss
from qvtune.training.prepare import Prepared, prepare
from qvtune.training.seeds import kept_random_state, stream_seed
from qvtune.training.timetable import count_steps

RESULT, MEASURED = "suggestion.json", "measured.jsonl"
# Fraction of the training examples to evaluate trials on, if the options hold out none.
HELD_OUT = 0.1
# Options that a search shares with a run.
RECIPE = (
    "schedule", "warmup", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "accumulation",
    "seed",
)  # fmt: skip


def suggest(
    options: Mapping[str, Any],
    *,
    budget: str | float | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
) -> Suggestion:
    """Find η_QK, λ and the head's rate for a model, data and a method.

    Every side has a range test (Smith 2017): it trains alone while its rate rises. The test shows where rates begin to
    act and where they break. Short runs then choose: first at the method's default rates, then between these and the
    rates from the range tests, then around the better ones. They are compared on a part of the training examples; the
    evaluation set is not used. The rates of a trial that beats the defaults are lowered, since a whole run is longer.

    Args:
        options: options of `train`, without `out`. Rates among them are fixed. Other rates are searched, as are those
            that are "auto".
        budget: what the search may spend: "25%" of a full run or a number of steps. A forward pass alone counts as a
            third of a step. When None, a quarter of a full run and at least 600 steps.
        out: folder for `suggestion.json` and the measurements; an interrupted call goes on from there. When None, the
            measurements are stored in the cache.
        console: where progress goes; standard error when None.

    Raises:
        ConfigError: for options or a budget that make no sense, or if nothing is left to find.
        DataError: if the data cannot be read, or leave too few examples to evaluate on.
        DivergedError: if the loss is not finite before the first step, or every trial diverged.
        Interrupted: after Ctrl-C, when the measurements have been stored.
        RunError: if `out` belongs to another search, or cannot be written.
    """
    options = without_auto(as_options(options))
    config = make_config({**options, "out": "none"})
    fixed, ratio = given_rates(config, options)
    held_out = config if config.tune_fraction else config.model_copy(update={"tune_fraction": HELD_OUT})
    device = choose_device(config.device)
    with kept_random_state(device):
        prepared = prepare(held_out)
        limit = parse_budget(budget, count_steps(config, _examples(config, prepared)))
        material = make_material(held_out, prepared, _most_to_judge(limit, config))
        journal = _journal(None if out is None else Path(out), held_out, fixed, ratio, limit)
        recipe = Recipe(**{name: getattr(config, name) for name in RECIPE}, precision=prepared.precision)
        if "b_lr_ratio" in METHODS[config.method].defaults:
            recipe = replace(recipe, b_lr_ratio=config.b_lr_ratio)
        runner = TrialRunner(
            prepared.model, material.supply, material.validation, material.objective, recipe, material.validation_losses
        )
        try:
            found = _search(runner, limit, fixed, ratio, journal, console)
        except KeyboardInterrupt:
            raise Interrupted(
                "stopped; every range test and trial that had ended is kept. Give the same command again to go on."
            ) from None
    if out is not None:
        write_json(Path(out) / RESULT, found.to_dict())
    return found


def suggest_rates(
    model: nn.Module,
    batches: Iterable[Batch],
    validation: Iterable[Batch],
    *,
    full_steps: int,
    budget: str | float | None = None,
    loss: Loss | None = None,
    lr: float | None = None,
    lr_ratio: float | None = None,
    head_lr: float | None = None,
    recipe: Recipe | None = None,
    console: Console | None = None,
) -> Suggestion:
    """Find the rates of an adapted model, for a training loop of your own, and leave the model unchanged.

    Weights, gradients, modes and random states are bit for bit the same afterwards, also after an error or an
    interruption. Your optimizer is not touched: every part of the search makes its own.

    Args:
        model: what `adapt` returned.
        batches: training batches, as a DataLoader or a list. They are read as often as needed. A loader that shuffles
            uses torch's global seed, which is set for every reading.
        validation: batches to compare trials on, by loss.
        full_steps: how many steps the training will take.
        budget: as `suggest` takes it.
        loss: takes a model and a batch and returns the mean loss over its examples; `model(**batch).loss` when None.
        lr: η_QK, if it is not searched.
        lr_ratio: λ, if it is not searched.
        head_lr: the head's rate, if it is not searched.
        recipe: schedule, AdamW's numbers, clipping, accumulation and precision of the training.
        console: where progress goes; standard error when None.

    Raises:
        ConfigError: if the model is not adapted, there are fewer than 4 batches, the batches can be read only once, a
            number or the recipe makes no sense, the budget is too small, or nothing is left to find.
        DivergedError: if the loss is not finite before the first step, or every trial diverged.
    """
    recipe = recipe or Recipe()
    _check_call(model, recipe, full_steps)
    query_key, ratio = checked_rate("lr", lr), checked_rate("lr_ratio", lr_ratio)
    given = {LR: query_key, HEAD_LR: checked_rate("head_lr", head_lr)}
    if query_key is not None and ratio is not None:
        given[VALUE_LR], ratio = query_key * ratio, None
    fixed = {name: rate for name, rate in given.items() if rate is not None}
    limit = parse_budget(budget, full_steps)
    with kept_random_state(device_of(model)):
        judging = _checked_batches("validation", validation, 1, own_loss=loss is None)
        _checked_batches("batches", batches, FEWEST_BATCHES, own_loss=loss is None)
        supply = partial(_read_again, batches, stream_seed(recipe.seed, "suggest"))
        runner = TrialRunner(model, supply, judging, MeanLoss(loss or _own_loss), recipe)
        return _search(runner, limit, fixed, ratio, Journal(), console)


def _search(
    runner: TrialRunner,
    budget: Budget,
    fixed: RateByName,
    ratio: float | None,
    journal: Journal,
    console: Console | None,
) -> Suggestion:
    method = runner.method
    rates = Rates.resolve(method)
    default = {LR: rates.lr, VALUE_LR: rates.value, HEAD_LR: rates.head}
    console = console or Console(stderr=True)
    more = ", more than the run itself" if budget.part > 1 else ""
    console.out(f"Searching for rates with {budget} at most{more}.", highlight=False)
    costs = [piece["cost"] for piece in journal.values()]
    before = sum(Cost(cost["steps"], cost["forwards"]).in_steps for cost in costs)
    if costs:
        console.out(
            f"Going on: {before:.0f} steps of it, in {len(costs)} parts, were measured before.", highlight=False
        )
    with borrowed(runner.model), Meter("searching, step", budget.steps, console, unit="steps", done=before) as meter:
        runner.spent = lambda spent: meter.show(before + spent)
        return Finder(runner, budget, default, fixed, ratio, journal).find()


def _check_call(model: nn.Module, recipe: Recipe, full_steps: int) -> None:
    if not isinstance(model, nn.Module) or adaptation_of(model) is None:
        raise ConfigError("this model is not adapted, so nothing says what trains. Call qvtune.adapt first.")
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"recipe is {recipe!r}; it should be a qvtune.Recipe, as in Recipe(schedule='constant').")
    if isinstance(full_steps, bool) or not isinstance(full_steps, int) or full_steps < 1:
        raise ConfigError(f"full_steps is {full_steps!r}; it should be the number of steps that the training takes.")


def _checked_batches(name: str, batches: Any, fewest: int, *, own_loss: bool) -> list[Batch]:
    """Return the first batches of `batches`, after a check that there are enough and that they have the right form.

    Raises:
        ConfigError: if the check fails.
    """
    if not isinstance(batches, Iterable):
        raise ConfigError(f"{name} is {batches!r}; it should be a DataLoader or a list of batches.")
    if isinstance(batches, Iterator) and name == "batches":
        raise ConfigError("batches is an iterator, which can be read once. Give a DataLoader or a list.")
    found = list(islice(batches, fewest if name == "batches" else None))
    if len(found) < fewest:
        raise ConfigError(f"{name} has {len(found)} batches; a search needs {fewest}. Give more, or smaller ones.")
    if own_loss and not isinstance(found[0], Mapping):
        raise ConfigError(
            f"{name} gives batches of type {type(found[0]).__name__}, and the model takes dictionaries. Give those, as "
            "{'input_ids': ..., 'labels': ...}, or give a loss."
        )
    return found


def _read_again(batches: Iterable[Batch], seed: int, number: int) -> Iterator[Batch]:
    for epoch in count():
        torch.manual_seed(seed + (number << 20) + epoch)
        yield from batches


def _own_loss(model: nn.Module, batch: Batch) -> Tensor:
    loss = model(**batch).loss
    if loss is None:
        raise ConfigError("the model returns no loss for these batches. Put labels into them, or give a loss.")
    return loss


def _most_to_judge(budget: Budget, config: TrainConfig) -> int:
    """Return the largest number of examples to evaluate after every trial."""
    batches = VALIDATION_PART * budget.steps / MOST / FORWARD_SHARE
    return int(batches * config.batch_size * config.accumulation)


def _examples(config: TrainConfig, prepared: Prepared) -> int:
    """Return how many examples the run will train on."""
    held_out = 0 if config.tune_fraction else len(prepared.splits[TUNING])
    return min(len(prepared.train) + held_out, config.max_train_samples or len(prepared.train) + held_out)


def _journal(
    folder: Path | None, config: TrainConfig, fixed: RateByName, ratio: float | None, budget: Budget
) -> Journal:
    """Open the journal of this search: in its folder, or in the cache, or in memory if neither can be written."""
    what = [config.fingerprint(), file_digests(config), dict(fixed), ratio, budget.steps]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    if folder is None:
        cache = writable_cache("suggest")
        return Journal(None if cache is None else cache / f"{key}.jsonl", key)
    check_free(folder, MEASURED)
    return Journal(folder / MEASURED, key)
