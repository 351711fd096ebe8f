"""Sets of roles side by side: ranks at which each trains as many parameters, and the best rate of each."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from qvtune.amounts import join_words
from qvtune.errors import ConfigError, QVTuneError
from qvtune.lab.axes import Axes
from qvtune.lab.summary import AVERAGE
from qvtune.methods.table import METHODS
from qvtune.roles.attention import parse_roles
from qvtune.training.config import LORA, TrainConfig, make_config
from qvtune.training.plan import plan_without_weights

OPTION = "--roles-sets"
# Options of a contender that say how fast it trains; each set has its own best values.
RATES = ("lr", "lr_ratio", "head_lr")
# A set whose parameters differ by more from those of the first is told.
CLOSE = 0.1


class RolesSets(NamedTuple):
    """The contenders of every set, as `--methods` words them, the options they have for themselves, and notes."""

    contenders: dict[str, list[str]]
    own: set[str]
    notes: list[str]

    @property
    def words(self) -> list[str]:
        """All contenders."""
        return list(itertools.chain(*self.contenders.values()))


def roles_sets(
    sets: str | Sequence[str], options: Mapping[str, Any], axes: Axes | None = None, *, equal_parameters: bool = False
) -> RolesSets:
    """Return a contender for every set of roles and every combination of rates.

    With equal parameters, the first set has the rank of `options`, and every other the rank at which its adapter has as
    nearly as many parameters as one rank more or less allows. Alpha moves with the rank, so that their ratio stays.

    Args:
        sets: sets of roles, such as "qv,gud,all" or a list of them.
        options: options of `train` for all runs: the model, and perhaps `method`, `rank` and `alpha`.
        axes: rates to try for every set, such as {"lr": [1e-4, 1e-3]}.
        equal_parameters: choose the ranks so.

    Raises:
        ConfigError: for sets or axes that make no sense, or if a method has no rank, or no rank is low enough.
    """
    names = [word.strip() for word in (sets.split(",") if isinstance(sets, str) else sets) if word.strip()]
    if len(names) < 2:
        raise ConfigError(f"{OPTION} is '{sets}'; name two sets of roles or more, as in {OPTION} qv,gud,all.")
    letters = [parse_roles(name) for name in names]
    if twice := next((names[i] for i, roles in enumerate(letters) if roles in letters[:i]), None):
        raise ConfigError(f"{OPTION}: '{twice}' names roles that another set has. Name each set once.")
    if "roles" in options:
        raise ConfigError(f"--roles differs from run to run here. Give {OPTION} alone.")
    if odd := [name for name in axes or {} if name not in RATES]:
        raise ConfigError(f"--axis {odd[0]}: of sets of roles, only rates may vary: {', '.join(RATES)}.")
    method = str(options.get("method", LORA.name))
    ranks, notes = _equal_ranks(names, method, options) if equal_parameters else ({}, [])
    grid = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())] if axes else [{}]
    contenders = {
        name: [_word(method, {"roles": roles, **ranks.get(name, {}), **rates}) for rates in grid]
        for name, roles in zip(names, letters, strict=True)
    }
    return RolesSets(contenders, {*(axes or {}), *(("rank", "alpha") if ranks else ())}, notes)


def best_of_sets(summary: pd.DataFrame, contenders: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return a row for every set: its contender with the best mean over the tasks, and what that trains.

    Args:
        summary: the table of the comparison.
        contenders: the contenders of every set, by name.
    """
    whole = summary[summary["task"] == AVERAGE] if (summary["task"] == AVERAGE).any() else summary
    columns = ["method", "metric", "mean", "sd", "n", "trained_parameters", "adapter_parameters", "seconds"]
    rows = []
    for name, words in contenders.items():
        own = whole[whole["method"].isin(words)].dropna(subset=["mean"])
        found = own.loc[own["mean"].idxmax(), columns].to_dict() if len(own) else {"method": None}
        rows.append({"roles": name} | found | {"tried": len(words)})
    return pd.DataFrame(rows)


def _equal_ranks(
    names: Sequence[str], method: str, options: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return rank and alpha of every set, and a sentence about their parameters."""
    if "rank" not in METHODS[method].defaults:
        raise ConfigError(f"--equal-parameters chooses ranks, and --method {method} has none. Leave it out.")
    config = _config(method, options, names[0], {})
    rank, alpha = config.rank, config.alpha
    wanted = _parameters(config)
    found, told = {}, []
    for name in names:
        one, two = (_parameters(_config(method, options, name, {"rank": r})) for r in (1, 2))
        own = rank if name == names[0] else max(1, round((wanted - (2 * one - two)) / (two - one)))
        count = one + (own - 1) * (two - one)
        if own == 1 and count > (1 + CLOSE) * wanted:
            raise ConfigError(
                f"--equal-parameters: {name} has {count:,} parameters at rank 1, and {names[0]} has {wanted:,} at rank "
                f"{rank}. Give a higher --rank."
            )
        found[name] = {"rank": own, "alpha": f"{alpha * own / rank:g}"}
        told.append(f"{name} rank {own} and {count:,}{_apart(count, wanted)}")
    return found, [f"Ranks and parameters of the adapters: {join_words(told)}."]


def _apart(count: int, wanted: int) -> str:
    apart = count / wanted - 1
    return f" ({abs(apart):.0%} {'more' if apart > 0 else 'fewer'})" if abs(apart) > CLOSE else ""


def _config(method: str, options: Mapping[str, Any], roles: str, own: Mapping[str, Any]) -> TrainConfig:
    # The data are not read; neither they nor the rates change the number of parameters.
    kept = {name: value for name, value in options.items() if name not in ("data", "glue_dir", "value_lr", "rate")}
    return make_config(kept | {"method": method, "roles": roles, "data": "none", "out": "none"} | dict(own))


def _parameters(config: TrainConfig) -> int:
    try:
        return plan_without_weights(config, with_data=False).parameters_adapter
    except QVTuneError as error:
        raise ConfigError(f"{OPTION} {config.roles}: {error}") from error


def _word(method: str, options: Mapping[str, Any]) -> str:
    return f"{method}:" + "+".join(f"{name}={value}" for name, value in options.items())
