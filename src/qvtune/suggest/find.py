"""`suggest`: learning rates for a configuration, its data and its model."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from qvtune.cache import writable_cache
from qvtune.data.files import file_digests
from qvtune.data.load import TUNING
from qvtune.errors import ConfigError
from qvtune.methods.table import METHODS
from qvtune.suggest.bench import Bench, Recipe, borrowed, kept_random_state
from qvtune.suggest.budget import VALIDATION_PART, parse_budget
from qvtune.suggest.journal import Journal
from qvtune.suggest.material import make_material
from qvtune.suggest.progress import SearchProgress
from qvtune.suggest.search import HEAD, QUERY_KEY, VALUE, Search
from qvtune.suggest.suggestion import Suggestion
from qvtune.suggest.trials import MOST
from qvtune.train.config import TrainConfig, make_config
from qvtune.train.fast.accelerate import accelerate
from qvtune.train.fast.precision import resolve_precision
from qvtune.train.folder import write_json, writing
from qvtune.train.run import Prepared, prepare
from qvtune.train.supplies import count_steps

RESULT, MEASURED = "suggestion.json", "measured.jsonl"
# Part of the training examples that judges trials, where the options hold out none.
HELD_OUT = 0.1
ROLE_RATES = ("query_lr", "key_lr", "output_lr")


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
            third of a step; a quarter of a full run and at least 400 steps when None.
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
    search_config = config if config.tune_fraction else config.model_copy(update={"tune_fraction": HELD_OUT})
    console = console or Console(stderr=True)
    with kept_random_state():
        prepared = prepare(search_config)
        limit = parse_budget(budget, count_steps(config, _examples(config, prepared)))
        folder = None if out is None else Path(out)
        journal = _journal(folder, search_config, fixed, ratio, limit.steps)
        most = int(VALIDATION_PART * limit.steps * 3 * config.batch_size * config.accumulation / MOST)
        material = make_material(search_config, prepared, most)
        precision = resolve_precision(config.precision)
        model = accelerate(prepared.model, precision=precision) if config.fast else prepared.model
        recipe = Recipe(
            **{name: getattr(config, name) for name in RECIPE}, precision=precision, b_lr_ratio=_b_ratio(config)
        )
        with borrowed(model), SearchProgress(console, limit.steps) as progress:
            bench = Bench(
                model, material.supply, material.validation, material.loss, recipe, material.judge, progress.spend
            )
            found = Search(bench, limit, _default(config), fixed, ratio, journal).find()
    if folder is not None:
        write_json(folder / RESULT, found.to_dict())
    return found


RECIPE = (
    "schedule", "warmup", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "accumulation",
    "seed",
)  # fmt: skip


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
        fixed[QUERY_KEY] = config.lr
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


def _default(config: TrainConfig) -> dict[str, float]:
    """Return the rates that a run would have, with the method's own in the place of those that are searched."""
    method = METHODS[config.method]
    ratio = method.lr_ratio or 1.0
    return {QUERY_KEY: method.lr, VALUE: method.lr * ratio, HEAD: method.lr}


def _b_ratio(config: TrainConfig) -> float | None:
    return config.b_lr_ratio if METHODS[config.method].b_lr_ratio is not None else None


def _examples(config: TrainConfig, prepared: Prepared) -> int:
    """Return how many examples the run will train on."""
    held_out = 0 if config.tune_fraction else len(prepared.splits[TUNING])
    return min(len(prepared.train) + held_out, config.max_train_samples or len(prepared.train) + held_out)


def _journal(
    folder: Path | None, config: TrainConfig, fixed: Mapping[str, float], ratio: float | None, steps: float
) -> Journal:
    """Open the journal of this search: in its folder, or in the cache, or in memory where neither can be written."""
    what = [config.fingerprint(), file_digests(config), dict(fixed), ratio, steps]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    if folder is None:
        cache = writable_cache("suggest")
        return Journal(None if cache is None else cache / f"{key}.jsonl", key)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return Journal(folder / MEASURED, key)
