"""`sweep`: train every run of a grid, and record the outcome of each in a store."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from qvtune.amounts import count
from qvtune.errors import ConfigError
from qvtune.files import write_text
from qvtune.lab.axes import check_axes, combinations
from qvtune.lab.cells import Cell, check_distinct, given_options, make_cell
from qvtune.lab.execution import DEFAULT_EXECUTION, Execution
from qvtune.lab.executors import EXECUTORS, POLL_SECONDS, threads_of
from qvtune.lab.meter import RunsProgress
from qvtune.lab.outcome import FINISHED, PENDING, Outcome, read_outcome, results_table
from qvtune.lab.results import Results
from qvtune.lab.store import SWEEP, Store
from qvtune.lab.work import BUSY, LOST, make_job


def sweep(
    options: Mapping[str, Any],
    axes: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    *,
    out: str | Path,
    execution: Execution | None = None,
    console: Console | None = None,
) -> Results:
    """Train every combination of the axes' values, and return the results of the store, a row for every run.

    Runs that the store already holds are not trained again. So an interrupted sweep goes on, and a sweep with more
    values trains only the new runs. `results.csv` in the store has the same rows.

    Args:
        options: options of `train`, shared by all runs, such as {"model": "pkg:minilm", "data": "reviews.csv"}.
        axes: values by option, such as {"lr": [1e-4, 4e-4], "lr_ratio": [1, 4]}; every combination is a run. Or a list
            of runs, such as [{"lr": 1e-4, "lr_ratio": 4}, {"lr": 4e-4, "lr_ratio": 1}].
        out: folder of the store.
        execution: where the runs are trained; one after another in this process when None.
        console: where progress goes; standard error when None.

    Raises:
        ConfigError: for axes or options that make no sense.
        RunError: if `out` holds something else.
        QVTuneError: for data or a model that cannot be read, before anything is trained.
        Interrupted: after SIGINT or SIGTERM, when the running work has been saved.
    """
    store = Store(Path(out))
    cells = sweep_cells(store, options, axes)
    train_cells(store, SWEEP, cells, given_options(options, cells), {}, execution or DEFAULT_EXECUTION, console)
    return Results(write_results(store), store.path)


def sweep_cells(
    store: Store, options: Mapping[str, Any], axes: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]
) -> list[Cell]:
    """Return the checked runs of a grid or a list.

    Raises:
        ConfigError: if there are no runs, or for axes or options that make no sense.
    """
    if isinstance(axes, Mapping):
        check_axes(axes, options)
        points = combinations(axes)
    else:
        points = [dict(point) for point in axes]
        for point in points:
            check_axes({name: [value] for name, value in point.items()}, options)
    if not axes or not all(points):
        raise ConfigError("the grid is empty: give at least one --axis, as in --axis lr=1e-4,4e-4.")
    cells = [make_cell(store, point, dict(options) | point) for point in points]
    check_distinct(cells)
    return cells


def train_cells(
    store: Store,
    kind: str,
    cells: Sequence[Cell],
    given: Mapping[str, Any],
    details: Mapping[str, Any],
    execution: Execution,
    console: Console | None = None,
) -> list[Outcome]:
    """Add runs to a store, train those that it does not hold yet, and return the outcome of each of `cells`.

    Args:
        store: created if it does not exist.
        kind: SWEEP, COMPARISON or REPRODUCTION.
        cells: the runs.
        given: options that the user gave for all of them, resolved.
        details: what a report needs beside the runs.
        execution: where the runs are trained.
        console: where progress goes; standard error when None.
    """
    console = console or Console(stderr=True)
    started = time.time()
    missing = missing_cells(store, cells, execution)
    if missing:
        _check_inputs(missing)
    store.add(kind, {cell.name: cell.labels for cell in cells}, given, details)
    if missing:
        done = len(cells) - len(missing)
        console.out(f"{count(len(cells), 'run')}, {done} done, {len(missing)} to train", highlight=False)
        _train_missing(store, missing, execution, started if execution.retry else 0.0, console, len(cells))
    return [_outcome(store, cell) for cell in cells]


def missing_cells(store: Store, cells: Sequence[Cell], execution: Execution) -> list[Cell]:
    """Return the cells that are still to be trained."""

    def is_missing(outcome: Outcome) -> bool:
        return outcome.status == PENDING or (execution.retry and outcome.status != FINISHED)

    return [cell for cell in cells if is_missing(_outcome(store, cell))]


def write_results(store: Store) -> pd.DataFrame:
    """Write `results.csv`, a row for every run of a store, and return the rows."""
    table = results_table(store.outcomes())
    write_text(store.results, table.to_csv(index=False))
    return table


def _train_missing(
    store: Store, missing: Sequence[Cell], execution: Execution, retry_before: float, console: Console, total: int
) -> None:
    jobs = {
        cell.name: make_job(store, cell, threads_of(execution), retry_before, execution.halving) for cell in missing
    }
    cells = {cell.name: cell for cell in missing}
    with RunsProgress(console, missing, total - len(missing)) as progress:
        waiting = list(jobs)
        while waiting:
            busy = []
            for name, status in EXECUTORS[execution.executor]([jobs[name] for name in waiting], execution):
                if status == BUSY:
                    busy.append(name)
                elif status == LOST:
                    progress.ended(_outcome(store, cells[name]), "its process died; the next call goes on with it")
                else:
                    progress.ended(_outcome(store, cells[name]))
            if busy and len(busy) == len(waiting):
                console.out(f"waiting for {count(len(busy), 'run')} in work in another process", highlight=False)
                time.sleep(POLL_SECONDS * 10)
            waiting = busy


def _outcome(store: Store, cell: Cell) -> Outcome:
    return read_outcome(store.run_folder(cell.name), cell.labels)


def _check_inputs(cells: Sequence[Cell]) -> None:
    """Read data and tokenizer once for all runs that share them: errors appear now, and the tokens are cached."""
    from qvtune.training.prepare import read_inputs

    seen = set()
    for cell in cells:
        config = cell.config
        key = (config.model, config.data, str(config.glue_dir), config.data_config, config.max_length, config.new_head)
        if key not in seen:
            seen.add(key)
            read_inputs(config)
