"""`compare`: methods side by side on tasks, over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from qvtune.data.glue import PREFIX
from qvtune.errors import ConfigError, nearest
from qvtune.files import write_text
from qvtune.lab.axes import Axes
from qvtune.lab.cells import Cell, make_cell
from qvtune.lab.choices import (
    Contender,
    check_shared,
    overlay,
    parse_methods,
    parse_seeds,
    parse_tasks,
    untaken,
)
from qvtune.lab.execution import DEFAULT_EXECUTION, Execution
from qvtune.lab.formats import write_tables
from qvtune.lab.results import Results
from qvtune.lab.roles_sets import RolesSets, best_of_sets
from qvtune.lab.roles_sets import roles_sets as roles_sets_of
from qvtune.lab.store import COMPARISON, Store
from qvtune.lab.summary import summarize
from qvtune.lab.sweep import train_cells, write_results


@dataclass(frozen=True)
class Comparison:
    """The runs of a comparison, checked and not yet trained.

    `given` holds the options that the user gave for all runs, resolved; `notes` say which of them some methods do not
    use; `sets` holds the methods of every set of roles, where these are compared.
    """

    cells: tuple[Cell, ...]
    given: dict[str, Any]
    baseline: str
    notes: tuple[str, ...]
    sets: dict[str, list[str]] = field(default_factory=dict)


def compare(
    methods: str | Sequence[str] | None = None,
    *,
    out: str | Path,
    tasks: str | Sequence[str] | None = None,
    seeds: int | str | Sequence[int] = 3,
    baseline: str | None = None,
    options: Mapping[str, Any] | None = None,
    roles_sets: str | Sequence[str] | None = None,
    equal_parameters: bool = False,
    axes: Axes | None = None,
    execution: Execution | None = None,
    console: Console | None = None,
) -> Results:
    """Train every method on every task with every seed, write the tables, and return the summary.

    Runs that the folder already holds are not trained again, so more methods, tasks or seeds cost only the new runs. A
    run that fails is counted and does not stop the others.

    Args:
        methods: names such as ["lora", "full"] or "lora,lora:rank=16+lr_ratio=2"; a method may have its own options.
            None when `roles_sets` is given.
        out: folder for the runs, and for `table.csv`, `table.md`, `table.tex` and `table.html`.
        tasks: GLUE tasks such as ["rte", "mrpc"]; None when `options` has "data".
        seeds: the number of seeds, from 0, or a list of seeds.
        baseline: the method that the others are tested against; the first when None.
        options: options of `train` for all runs, such as {"model": "pkg:minilm", "data": "reviews.csv"}.
        roles_sets: sets of roles in place of methods, such as "qv,gud,all", each trained by the `method` of `options`.
            `best.csv` and `best.md` then have each set at its best rates.
        equal_parameters: choose the ranks so that every set trains as many parameters as the first.
        axes: rates to try for every set of roles, such as {"lr": [1e-4, 1e-3]}.
        execution: where the runs are trained; one after another in this process when None.
        console: where progress goes; standard error when None.

    Returns:
        The summary: its table is that of `qvtune.lab.summary.summarize`, a row per method and task.

    Raises:
        ConfigError: for methods, tasks, seeds or options that make no sense, before anything is trained.
        RunError: if `out` holds something else.
        QVTuneError: for data or a model that cannot be read, before anything is trained.
        Interrupted: after SIGINT or SIGTERM, when the running work has been saved.
    """
    comparison = plan_comparison(
        methods,
        out=out,
        tasks=tasks,
        seeds=seeds,
        baseline=baseline,
        options=options,
        roles_sets=roles_sets,
        equal_parameters=equal_parameters,
        axes=axes,
    )
    store = Store(Path(out))
    return Results(run_comparison(comparison, store, execution or DEFAULT_EXECUTION, console), store.path)


def plan_comparison(
    methods: str | Sequence[str] | None,
    *,
    out: str | Path,
    tasks: str | Sequence[str] | None,
    seeds: int | str | Sequence[int],
    baseline: str | None,
    options: Mapping[str, Any] | None,
    roles_sets: str | Sequence[str] | None = None,
    equal_parameters: bool = False,
    axes: Axes | None = None,
) -> Comparison:
    """Check the arguments of `compare`, and return its runs."""
    shared = dict(options or {})
    sets = _sets_of_roles(methods, shared, roles_sets, axes, equal_parameters=equal_parameters)
    if sets is not None:
        methods = sets.words
        shared = {name: value for name, value in shared.items() if name not in ("method", *sets.own)}
    check_shared(shared)
    contenders, listed = parse_methods(methods or ""), parse_seeds(seeds)
    names = [contender.name for contender in contenders]
    chosen = _check_baseline(baseline, names)
    data = _data_by_task(tasks, shared)
    cells, sources, notes = [], [], list(sets.notes) if sets else []
    for contender in contenders:
        own, left_out = _options_of(contender, shared, contenders)
        notes += [f"{contender.name} has no {option}, so {option} {shared[option]} is left out." for option in left_out]
        for task, source in data.items():
            for seed in listed:
                labels = {"method": contender.name, "task": task, "seed": seed}
                values = own | {"data": source, "seed": seed}
                cells.append(replace(make_cell(Store(Path(out)), labels, values), labels=labels))
                sources.append(values)
    _check_distinct(cells)
    by_set = sets.contenders if sets else {}
    return Comparison(tuple(cells), _given(shared, cells, sources), chosen, tuple(notes), by_set)


def run_comparison(
    comparison: Comparison, store: Store, execution: Execution, console: Console | None = None
) -> pd.DataFrame:
    """Train the missing runs, write `results.csv` and the tables, and return the summary of all runs of the store."""
    details = {"baseline": comparison.baseline, "notes": comparison.notes}
    train_cells(store, COMPARISON, comparison.cells, comparison.given, details, execution, console)
    summary = summarize(write_results(store), comparison.baseline)
    write_tables(store.path, summary, [f"The baseline is {comparison.baseline}.", *comparison.notes])
    if comparison.sets:
        best = best_of_sets(summary, comparison.sets)
        write_text(store.path / "best.csv", best.to_csv(index=False))
        write_text(store.path / "best.md", best.to_markdown(index=False) + "\n")
    return summary


def _sets_of_roles(
    methods: str | Sequence[str] | None,
    shared: Mapping[str, Any],
    named: str | Sequence[str] | None,
    axes: Axes | None,
    *,
    equal_parameters: bool,
) -> RolesSets | None:
    if methods is None and named is None:
        raise ConfigError("--methods is required, as in --methods lora,full; or give --roles-sets, as in qv,gud,all.")
    if methods is not None and named is not None:
        raise ConfigError(f"--methods and --roles-sets {named} are both given. Leave one out.")
    if named is not None:
        return roles_sets_of(named, shared, axes, equal_parameters=equal_parameters)
    for option, value in (("--equal-parameters", equal_parameters), ("--axis", axes)):
        if value:
            raise ConfigError(f"{option} is for --roles-sets, and --methods is given. Leave it out.")
    return None


def _check_baseline(baseline: str | None, names: Sequence[str]) -> str:
    if baseline is not None and baseline not in names:
        raise ConfigError(
            f"--baseline: '{baseline}' is none of the methods.{nearest(baseline, names)} They are {', '.join(names)}."
        )
    return baseline or names[0]


def _data_by_task(tasks: str | Sequence[str] | None, shared: Mapping[str, Any]) -> dict[str, str]:
    """Return the value of --data by the name of the task."""
    data = shared.get("data")
    if tasks is not None and data is not None:
        raise ConfigError(f"--tasks names tasks of GLUE, and --data is {data}. Give one of them.")
    if tasks is not None:
        return {task: f"{PREFIX}{task}" for task in parse_tasks(tasks)}
    if data is None:
        raise ConfigError("--tasks or --data is required: tasks of GLUE, as in --tasks rte,mrpc, or data of your own.")
    name = Path(data).stem if Path(data).exists() else str(data).removeprefix(PREFIX)
    return {name: str(data)}


def _options_of(
    contender: Contender, shared: Mapping[str, Any], contenders: Sequence[Contender]
) -> tuple[dict[str, Any], list[str]]:
    left_out = untaken(contender.options["method"], shared, {other.options["method"] for other in contenders})
    kept = {option: value for option, value in shared.items() if option not in left_out}
    return overlay(kept, contender.options), left_out


def _check_distinct(cells: Sequence[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.name, cell)
        if other is not cell:
            raise ConfigError(
                f"--methods: {other.labels['method']} and {cell.labels['method']} are the same run, with other words "
                "for the same options. Leave one out."
            )


def _given(shared: Mapping[str, Any], cells: Sequence[Cell], sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the shared options, each with its value in the first run that takes it."""
    given = {}
    for option, value in shared.items():
        takers = (cell for cell, source in zip(cells, sources, strict=True) if source.get(option) == value)
        taker = next(takers, None)
        if taker is not None and option in type(taker.config).model_fields:
            given[option] = taker.config.model_dump(mode="json")[option]
    return given
