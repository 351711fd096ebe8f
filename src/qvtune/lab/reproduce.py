"""`reproduce`: an experiment of the paper, and its numbers beside the published ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from qvtune.errors import ConfigError, RunError
from qvtune.files import write_text
from qvtune.lab.axes import ALTERNATIVES
from qvtune.lab.cells import Cell, make_cell
from qvtune.lab.choices import check_shared, overlay, parse_seeds, parse_tasks, untaken
from qvtune.lab.deviations import list_deviations
from qvtune.lab.execution import DEFAULT_EXECUTION, Execution
from qvtune.lab.formats import MARKDOWN, Markup, TextTable, costs, join_page, signed, to_markdown
from qvtune.lab.outcome import FINISHED, Outcome, results_table
from qvtune.lab.presets import (
    BEFORE,
    PUBLISHED_METRIC,
    Preset,
    choose_rows,
    find_preset,
    published_numbers,
    row_name,
)
from qvtune.lab.results import Results
from qvtune.lab.store import REPRODUCTION, Store
from qvtune.lab.summary import AVERAGE, summarize
from qvtune.lab.sweep import train_cells, write_results
from qvtune.lab.untrained import measure_untrained, read_untrained
from qvtune.methods.table import METHODS
from qvtune.training.config import make_config

# The paper's GPUs used fp16; a precision that suits the hardware here is chosen instead, and reported.
HERE = {"precision": "auto"}

# Columns of the summary that are left out of the table: tests need a baseline, and the paper names none.
UNUSED = ("pairs", "difference", "difference_low", "difference_high", "p_t", "p_wilcoxon", "note")


@dataclass(frozen=True)
class Reproduction:
    """The runs of a reproduction, checked and not yet trained.

    Attributes:
        preset: the whole experiment, whatever part of it is run.
        cells: the runs; their labels are the row's labels, `task` and `seed`.
        untrained: for the row "before", a run for every task and seed; its model is measured before training.
        given: options that the user gave for all runs, resolved.
        deviations: a sentence for every difference from the published experiment.
    """

    preset: Preset
    cells: tuple[Cell, ...]
    untrained: tuple[Cell, ...]
    given: dict[str, Any]
    deviations: tuple[str, ...]


def reproduce(
    experiment: str,
    *,
    out: str | Path,
    family: str | None = None,
    tasks: str | Sequence[str] | None = None,
    rows: str | Sequence[str] | None = None,
    seeds: int | str | Sequence[int] = 1,
    options: Mapping[str, Any] | None = None,
    execution: Execution | None = None,
    console: Console | None = None,
) -> Results:
    """Run an experiment of the paper, write `table.csv` and `table.md`, and return the table.

    Args:
        experiment: "table1", "figure1", "figure2" or "table2" (Yao et al., IJCAI 2025).
        out: folder for the runs and the tables.
        family: whose hyperparameters, "roberta" or "llama"; the first that the experiment has when None.
        tasks: GLUE tasks; the experiment's when None.
        rows: descriptions such as "lora qv,full" or "rank=8 lr_ratio=4"; all rows when None.
        seeds: the number of seeds, from 0, or a list of seeds.
        options: options of `train` that replace the paper's, such as {"model": "pkg:minilm", "epochs": 2}.
        execution: where the runs are trained; one after another in this process when None.
        console: where progress goes; standard error when None.

    Returns:
        A table with one row for each row and task of the experiment, and one for each row over all tasks. Its columns
        are `row`, `task`, `metric`, `published`, `mean`, `sd`, `n`, `difference` (mean minus published), all four
        numbers in percent, `runs`, `failed`, and what the run trained and cost.

    Raises:
        ConfigError: for anything that the experiment does not have, before anything is trained.
        RunError: if `out` holds something else.
        QVTuneError: for data or a model that cannot be read, before anything is trained.
        Interrupted: after SIGINT or SIGTERM, when the running work has been saved.
    """
    plan = plan_reproduction(experiment, out=out, family=family, tasks=tasks, rows=rows, seeds=seeds, options=options)
    store = Store(Path(out))
    return Results(run_reproduction(plan, store, execution or DEFAULT_EXECUTION, console), store.path)


def plan_reproduction(
    experiment: str,
    *,
    out: str | Path,
    family: str | None,
    tasks: str | Sequence[str] | None,
    rows: str | Sequence[str] | None,
    seeds: int | str | Sequence[int],
    options: Mapping[str, Any] | None,
) -> Reproduction:
    """Check the arguments of `reproduce`, and return its runs."""
    full = find_preset(experiment, family)
    chosen = _choose(full, tasks, rows)
    shared = {"model": full.model} | HERE | dict(options or {})
    _check_options(full, options or {})
    store, listed = Store(Path(out)), parse_seeds(seeds)
    cells, differing = [], []
    for labels, paper in chosen.runs():
        kept = {name: shared[name] for name in shared if name not in untaken(paper["method"], shared, METHODS)}
        published = make_config({"model": full.model, **paper, "out": "none"})
        for seed in listed:
            named = {**dict.fromkeys(full.axes), **labels, "seed": seed}
            cell = make_cell(store, named, overlay(paper, kept) | {"seed": seed})
            cells.append(replace(cell, labels=named))
            differing.append((published, cell.config))
    untrained = _untrained_cells(store, chosen, shared, listed) if BEFORE in chosen.rows else []
    deviations = tuple(list_deviations(full, chosen, differing, listed))
    return Reproduction(full, tuple(cells), tuple(untrained), _given(full, options or {}), deviations)


def run_reproduction(
    plan: Reproduction, store: Store, execution: Execution, console: Console | None = None
) -> pd.DataFrame:
    """Train and measure what is missing, write the tables, and return the table of all runs of the store."""
    preset = plan.preset
    details = {
        "experiment": preset.experiment,
        "family": preset.family,
        "title": preset.title,
        "deviations": plan.deviations,
    }
    _check_experiment(store, details)
    train_cells(store, REPRODUCTION, plan.cells, plan.given, details, execution, console)
    write_results(store)
    for cell in plan.untrained:
        measure_untrained(store, cell.config, console)
    before = [
        {
            "row": row_name(BEFORE),
            "task": found["task"],
            "seed": found["seed"],
            "metric": _published_metric(found["task"], found["metrics"]),
            "metric_name": _metric_name(found["task"]),
        }
        for found in read_untrained(store)
    ]
    table = make_table(preset, store.outcomes(), before)
    write_text(store.path / "table.csv", table.to_csv(index=False, lineterminator="\n"))
    page = join_page([beside(table, MARKDOWN), costs(table, MARKDOWN)], explain(plan, table), MARKDOWN, to_markdown)
    write_text(store.path / "table.md", page)
    return table


def make_table(preset: Preset, outcomes: Sequence[Outcome], before: Sequence[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """Return the measured numbers, in percent, beside the published ones.

    Args:
        preset: the experiment, whose published numbers are looked up.
        outcomes: its runs.
        before: `row`, `task`, `seed`, `metric` (in percent) and `metric_name` for every model that was measured before
            training.
    """
    results = results_table(outcomes)
    if len(results):
        results["row"] = [row_name({axis: outcome.labels.get(axis) for axis in preset.axes}) for outcome in outcomes]
        results["metric"] = [
            _published_metric(outcome.labels["task"], outcome.result.get("metrics", {})) for outcome in outcomes
        ]
    untrained = pd.DataFrame([dict(record) | {"status": FINISHED} for record in before])
    known = pd.concat([frame for frame in (untrained, results) if len(frame)])
    known = known.reindex(columns=list(dict.fromkeys((*known.columns, *results.columns, *COSTS))))
    table = summarize(known, "", "row").drop(columns=[*UNUSED, "place"])
    published = published_numbers(preset)
    numbers = [_published(published, row, list(known["task"].unique())) for _, row in table.iterrows()]
    table.insert(3, "published", pd.Series(numbers, dtype=float))
    table.insert(7, "difference", table["mean"].astype(float) - table["published"])
    return table


COSTS = (
    "metric_name", "seconds", "trained_parameters", "adapter_parameters", "head_parameters", "saved_bytes",
    "peak_memory_bytes",
)  # fmt: skip


def beside(table: pd.DataFrame, markup: Markup) -> TextTable:
    """Return published and measured numbers as a table to read, a group of rows per task."""
    rows: list[list[str]] = []
    groups = []
    for task in table["task"].unique():
        groups.append(len(rows))
        for _, row in table[table["task"] == task].iterrows():
            spread = "" if pd.isna(row["sd"]) else f" ± {row['sd']:.2f}"
            cells = [
                task,
                row["row"],
                "" if pd.isna(row["published"]) else f"{row['published']:.2f}",
                "" if pd.isna(row["mean"]) else f"{row['mean']:.2f}{spread}",
                signed(row["difference"], 2),
            ]
            rows.append([markup.escape(cell) for cell in cells])
    header = ["task", "row", "published", "measured", "difference"]
    return TextTable([markup.escape(text) for text in header], rows, "llrrr", groups[1:])


def explain(plan: Reproduction, table: pd.DataFrame) -> list[str]:
    """Return the sentences that belong below a table."""
    preset = plan.preset
    known = table["published"].notna().any()
    return [
        f"{preset.experiment} of the paper: {preset.title}. In percent, on the development sets: Pearson for STS-B, "
        "Matthews for CoLA, the mean of matched and mismatched for MNLI, else accuracy.",
        *([] if known else [f"The published numbers of these cells of {preset.experiment} are not known here."]),
        "A result is that of the last checkpoint, as in the published code, unless --keep-best is given.",
        "Parameters are those that train, adapter and head apart; the published count of the LoRA rows holds the head "
        "twice.",
        "Different from the paper:",
        *(f"- {deviation}" for deviation in plan.deviations),
    ]


def _choose(preset: Preset, tasks: str | Sequence[str] | None, rows: str | Sequence[str] | None) -> Preset:
    if tasks is not None:
        names = parse_tasks(tasks)
        for name in names:
            if name not in preset.tasks:
                raise ConfigError(
                    f"--tasks: {preset.experiment} has no {name}. Its tasks are {', '.join(preset.tasks)}."
                )
        preset = replace(preset, tasks={name: preset.tasks[name] for name in names})
    return preset if rows is None else replace(preset, rows=choose_rows(preset, rows))


def _check_options(preset: Preset, options: Mapping[str, Any]) -> None:
    check_shared({name: value for name, value in options.items() if name != "method"})
    if "data" in options:
        raise ConfigError("--data is set by the experiment, whose tasks are GLUE's. Give --glue-dir, or leave it out.")
    for option in options:
        rivals = {option}.union(*(pair for pair in ALTERNATIVES if option in pair))
        if {"roles" if option == "target" else option, *rivals} & set(preset.axes):
            raise ConfigError(
                f"--{option.replace('_', '-')} is what the rows of {preset.experiment} differ in. Choose rows with "
                f"--rows, as in --rows '{row_name(preset.rows[-1])}'."
            )


def _given(preset: Preset, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's options, resolved, and the model; they do not depend on the chosen rows."""
    row = preset.row_options(max(preset.rows, key=len))
    shared = {"model": preset.model, **options}
    taken = {name: shared[name] for name in shared if name not in untaken(row["method"], shared, METHODS)}
    config = make_config(overlay(row, taken) | {"data": "none", "out": "none"})
    return {name: value for name, value in config.model_dump(mode="json").items() if name in taken}


def _untrained_cells(store: Store, preset: Preset, shared: Mapping[str, Any], seeds: Iterable[int]) -> list[Cell]:
    cells = []
    for task in preset.tasks:
        options = {"method": "lora", "data": f"glue/{task}", "max_length": preset.options["max_length"]}
        for name in (
            "model",
            "glue_dir",
            "max_length",
            "max_eval_samples",
            "trust_remote_code",
            "new_head",
            "attention",
        ):
            options |= {name: shared[name]} if name in shared else {}
        for seed in seeds:
            labels = {"row": row_name(BEFORE), "task": task, "seed": seed}
            cells.append(replace(make_cell(store, labels, options | {"seed": seed}), labels=labels))
    return cells


def _check_experiment(store: Store, details: Mapping[str, Any]) -> None:
    before = store.read()["details"] if store.is_store else {}
    if before and (before.get("experiment"), before.get("family")) != (details["experiment"], details["family"]):
        raise RunError(
            f"{store.path}: holds {before.get('experiment')} with the options of {before.get('family')}, and this is "
            f"{details['experiment']} with those of {details['family']}. Give another --out."
        )


def _metric_name(task: str) -> str:
    return PUBLISHED_METRIC.get(task, "accuracy")


def _published_metric(task: str, metrics: Mapping[str, float]) -> float | None:
    value = metrics.get(_metric_name(task))
    return None if value is None else 100 * value


def _published(published: Mapping[tuple[str, str], float], row: pd.Series, tasks: Sequence[str]) -> float | None:
    if row["task"] != AVERAGE:
        return published.get((row["row"], row["task"]))
    numbers = [published.get((row["row"], task)) for task in tasks]
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if len(known) == len(numbers) else None
