"""`suggest`: learning rates for a configuration, its data and its model."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from qvtune.adaptation import adaptation_of
from qvtune.cache import writable_cache
from qvtune.data.files import file_digests
from qvtune.data.load import TUNING
from qvtune.errors import ConfigError
from qvtune.methods.table import METHODS
from qvtune.search.bench import FORWARD_SHARE, Batch, Bench, Loss, Recipe, borrowed, kept_random_state
from qvtune.search.budget import VALIDATION_PART, Budget, parse_budget
from qvtune.search.finder import HEAD, QUERY_KEY, VALUE, Finder
from qvtune.search.journal import Journal
from qvtune.search.material import make_material
from qvtune.search.progress import SearchProgress
from qvtune.search.suggestion import Suggestion
from qvtune.search.trials import MOST, Rates
from qvtune.train.config import TrainConfig, make_config
from qvtune.train.fast.accelerate import accelerate
from qvtune.train.fast.precision import resolve_precision
from qvtune.train.folder import check_free, write_json, writing
from qvtune.train.run import Prepared, prepare
from qvtune.train.seeds import stream_seed
from qvtune.train.supplies import count_steps

RESULT, MEASURED = "suggestion.json", "measured.jsonl"
# Part of the training examples that judges trials, where the options hold out none.
HELD_OUT = 0.1
ROLE_RATES = ("query_lr", "key_lr", "output_lr")
# Options of a run that a search shares with it.
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

    A range test of every side (Smith 2017), in which it trains alone while its rate rises, says where rates begin to
    act and where they break. Short runs at rates below the deepest drop, then about the best of them, then of the two
    best for longer, choose. They are judged by a part of the training examples: the evaluation set is not looked at.

    Args:
        options: of `train`, without `out`. Rates among them are kept, and the others searched.
        budget: what may be spent, as "25%" of a full run or a number of steps, where a forward pass alone counts as a
            third of a step; a quarter of a full run and at least 600 steps when None.
        out: folder for `suggestion.json` and what was measured; a call that was interrupted goes on from there. When
            None, what was measured is kept in the cache.
        console: where progress goes; standard error when None.

    Raises:
        ConfigError: for options or a budget that make no sense, or where nothing is left to find.
        DataError: if the data cannot be read, or leaves too few examples to judge by.
        DivergedError: if the loss is not finite before the first step, or every trial diverged.
        RunError: if `out` is of another search, or cannot be written.
    """
    config = make_config({**options, "out": "none"})
    fixed, ratio = given_rates(config, options)
    held_out = config if config.tune_fraction else config.model_copy(update={"tune_fraction": HELD_OUT})
    with kept_random_state():
        prepared = prepare(held_out)
        limit = parse_budget(budget, count_steps(config, _examples(config, prepared)))
        material = make_material(held_out, prepared, _most_to_judge(limit, config))
        journal = _journal(None if out is None else Path(out), held_out, fixed, ratio, limit)
        precision = resolve_precision(config.precision)
        model = accelerate(prepared.model, precision=precision) if config.fast else prepared.model
        recipe = Recipe(**{name: getattr(config, name) for name in RECIPE}, precision=precision)
        if "b_lr_ratio" in METHODS[config.method].defaults:
            recipe = replace(recipe, b_lr_ratio=config.b_lr_ratio)
        bench = Bench(model, material.supply, material.validation, material.loss, recipe, material.judge)
        found = _search(bench, limit, fixed, ratio, journal, console)
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
    """Find the rates of a model that was adapted, for a training loop of one's own, and leave the model as it was.

    Weights, gradients, modes and random states are bit for bit what they were, also after an error or an interruption.
    An optimizer is not touched: every part of the search makes its own.

    Args:
        model: what `adapt` returned.
        batches: of training, as a DataLoader or a list, read as often as is needed; a loader that shuffles does so by
            torch's global seed, which is set for every reading.
        validation: batches that judge trials, by their loss.
        full_steps: how many steps the training will take.
        budget: as `suggest` takes it.
        loss: of a model and a batch, the mean over its examples; `model(**batch).loss` when None.
        lr: η_QK, if it is not to be searched.
        lr_ratio: λ, likewise.
        head_lr: the head's rate, likewise.
        recipe: schedule, AdamW's numbers, clipping, accumulation and precision of the training.
        console: where progress goes; standard error when None.

    Raises:
        ConfigError: if the model is not adapted, batches can be read once only or are none, the budget is too small, or
            nothing is left to find.
        DivergedError: if the loss is not finite before the first step, or every trial diverged.
    """
    if adaptation_of(model) is None:
        raise ConfigError("this model is not adapted, so nothing says what trains. Call qvtune.adapt first.")
    if isinstance(batches, Iterator):
        raise ConfigError("batches is an iterator, which can be read once. Give a DataLoader or a list.")
    recipe = recipe or Recipe()
    with kept_random_state():
        judging = list(validation)
        if not judging or next(iter(batches), None) is None:
            raise ConfigError("there are no batches to train on or to judge by. Give at least one of each.")
        supply = partial(_read_again, batches, stream_seed(recipe.seed, "suggest"))
        bench = Bench(model, supply, judging, loss or _own_loss, recipe)
        value_lr = lr * lr_ratio if lr is not None and lr_ratio is not None else None
        given = {QUERY_KEY: lr, HEAD: head_lr, VALUE: value_lr}
        fixed = {name: float(rate) for name, rate in given.items() if rate is not None}
        ratio = lr_ratio if value_lr is None else None
        return _search(bench, parse_budget(budget, full_steps), fixed, ratio, Journal(), console)


def _search(
    bench: Bench, budget: Budget, fixed: Rates, ratio: float | None, journal: Journal, console: Console | None
) -> Suggestion:
    method = bench.method
    default = {QUERY_KEY: method.lr, VALUE: method.lr * (method.lr_ratio or 1.0), HEAD: method.lr}
    with borrowed(bench.model), SearchProgress(console or Console(stderr=True), budget.steps) as progress:
        bench.spend = progress.spend
        return Finder(bench, budget, default, fixed, ratio, journal).find()


def _read_again(batches: Iterable[Batch], seed: int, number: int) -> Iterator[Batch]:
    for epoch in count():
        torch.manual_seed(seed + (number << 20) + epoch)
        yield from batches


def _own_loss(model: nn.Module, batch: Batch) -> Tensor:
    loss = model(**batch).loss
    if loss is None:
        raise ConfigError("the model returns no loss for these batches. Put labels into them, or give a loss.")
    return loss


def given_rates(config: TrainConfig, options: Mapping[str, Any]) -> tuple[dict[str, float], float | None]:
    """Return the rates that are given, by "lr", "value_lr" and "head_lr", and λ where it is given and η_QK is not.

    Raises:
        ConfigError: for rates of single roles, which are not searched.
    """
    single = [name for name in ROLE_RATES if options.get(name) is not None]
    if single:
        raise ConfigError(
            f"--{single[0].replace('_', '-')} is given; a search has one rate for query, key and output. Leave it out."
        )
    fixed = {}
    if options.get("lr") is not None:
        fixed[QUERY_KEY if METHODS[config.method].has_roles else HEAD] = config.lr
    if options.get("head_lr") is not None:
        assert config.head_lr is not None
        fixed[HEAD] = config.head_lr
    if options.get("value_lr") is not None:
        assert config.value_lr is not None
        fixed[VALUE] = config.value_lr
    ratio = config.lr_ratio if options.get("lr_ratio") is not None else None
    if ratio is not None and QUERY_KEY in fixed:
        return fixed | {VALUE: config.lr * ratio}, None
    return fixed, ratio


def _most_to_judge(budget: Budget, config: TrainConfig) -> int:
    """Return how many examples may be evaluated after every trial."""
    batches = VALIDATION_PART * budget.steps / MOST / FORWARD_SHARE
    return int(batches * config.batch_size * config.accumulation)


def _examples(config: TrainConfig, prepared: Prepared) -> int:
    """Return how many examples the run will train on."""
    held_out = 0 if config.tune_fraction else len(prepared.splits[TUNING])
    return min(len(prepared.train) + held_out, config.max_train_samples or len(prepared.train) + held_out)


def _journal(folder: Path | None, config: TrainConfig, fixed: Rates, ratio: float | None, budget: Budget) -> Journal:
    """Open the journal of this search: in its folder, or in the cache, or in memory where neither can be written."""
    what = [config.fingerprint(), file_digests(config), dict(fixed), ratio, budget.steps]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    if folder is None:
        cache = writable_cache("suggest")
        return Journal(None if cache is None else cache / f"{key}.jsonl", key)
    check_free(folder, MEASURED)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return Journal(folder / MEASURED, key)
