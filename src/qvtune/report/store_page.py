"""The page of a sweep, a comparison or a reproduction, made only from its folder."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from qvtune.amounts import count
from qvtune.errors import RunError
from qvtune.lab.outcome import FINISHED, UNLEARNED, Outcome, results_table
from qvtune.lab.store import Store
from qvtune.report.bands import TASK, band_charts
from qvtune.report.chart import Chart
from qvtune.report.document import Details, Entry, Page, Pictures, Table, entry
from qvtune.report.grid import make_grids
from qvtune.report.heatmap import caption, colour_range, draw_heatmap
from qvtune.report.labels import (
    SEED,
    describe,
    finished,
    grouped,
    label_text,
    mean_sd,
    mean_text,
    varied,
)
from qvtune.report.lines import draw_chart
from qvtune.report.parameters import label_charts, metrics, parameter_charts
from qvtune.report.reach import not_drawn, reach_charts

# More panels than this are unreadable.
MOST_PANELS = 12
# Columns of counts in the table of runs, even if a run has no value.
COUNTS = {"trained_parameters", "adapter_parameters", "head_parameters", "saved_bytes", "peak_memory_bytes", "steps"}
COUNTS |= {"best_step"}
SUMMARY = "table.csv"


def store_page(store: Store, target: float | None = None) -> Page:
    """Make the page of a store.

    Args:
        store: the folder.
        target: the metric to reach in the picture of steps and seconds; what λ = 1 reaches when None.
    """
    manifest, outcomes = store.read(), store.outcomes()
    details = {name: value for name, value in manifest["details"].items() if value not in ("", [], {}, None)}
    rest = {name: value for name, value in details.items() if not _is_plain(value)}
    facts = [[Entry(name.replace("_", " ")), _fact(value)] for name, value in details.items() if name not in rest]
    parts: list[Any] = [*_unfinished(outcomes), *_summary(store.path / SUMMARY)]
    parts += [Table("Details", ["what", "value"], facts)] if facts else []
    parts += [*_pictures(outcomes, target), _runs(outcomes)]
    parts += [Details("Further details", json.dumps(rest, indent=2, ensure_ascii=False))] if rest else []
    title = f"{manifest['kind'].capitalize()} {store.path.absolute().name}"
    reason = not_drawn(outcomes) if target is None else None
    return Page(title, _sentences(manifest, outcomes), [reason] if reason else [], parts)


def _sentences(manifest: dict[str, Any], outcomes: Sequence[Outcome]) -> list[str]:
    axes = [f"{name} ({_values(values)})" for name, values in varied(outcomes).items()]
    over = f" over {_listed(axes)}" if axes else ""
    sentences = [f"{count(len(outcomes), 'run')}{over}."]
    if manifest["given"]:
        shared = [f"{name} {label_text(value)}" for name, value in manifest["given"].items()]
        sentences.append(f"All runs share {_listed(shared)}.")
    sentences += best_sentences(outcomes)
    statuses = Counter(outcome.status for outcome in outcomes)
    done = statuses.pop(FINISHED, 0)
    others = [f"{number:,} {status}" for status, number in statuses.items()]
    unlearned = sum(outcome.learned is False for outcome in outcomes)
    sentences.append(f"{done:,} of {count(len(outcomes), 'run')} finished" + "".join(f", {o}" for o in others) + ".")
    if unlearned:
        sentences.append(
            f"{unlearned:,} of them learned nothing ({UNLEARNED}): their predictions are those of guessing. The pages "
            "and result.json of these runs say what was seen and which option to change."
        )
    return sentences


def best_sentences(outcomes: Sequence[Outcome]) -> list[str]:
    """Return in words, per task, the labels with the highest mean metric over seeds."""
    names = [name for name in varied(outcomes) if name != SEED]
    sentences = []
    for task, runs in grouped(finished(outcomes), [name for name in names if name == TASK]):
        start = "Best" + "".join(f" on {value}" for value in task.values())
        runs = [run for run in runs if run.learned is not False]
        if not runs:
            sentences.append(f"{start}: none; every finished run learned nothing.")
            continue
        combinations = grouped(runs, [name for name in names if name != TASK])
        means = [mean_sd(metrics(members))[0] for _, members in combinations]
        equal = [c for c, mean in zip(combinations, means, strict=True) if mean == max(means)]
        labels, members = equal[0]
        word = members[0].result["main_metric"].replace("_", " ")
        start += f" with {describe(labels)}" if labels else ""
        more = f"; {count(len(equal) - 1, 'other combination')} equal to it" if len(equal) > 1 else ""
        sentences.append(f"{start}: {word} {mean_text(metrics(members))}{more}.")
    return sentences or ["No run has finished with a metric yet."]


def _values(values: list[Any]) -> str:
    texts = [label_text(value) for value in values]
    return ", ".join(texts) if len(texts) <= 8 else f"{len(texts)} values, {texts[0]} to {texts[-1]}"


def _listed(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _is_plain(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return all(part is None or isinstance(part, (str, int, float)) for part in parts)


def _fact(value: Any) -> Entry:
    return Entry("; ".join(map(str, value))) if isinstance(value, list) else entry(value)


def _unfinished(outcomes: Sequence[Outcome]) -> list[Table]:
    reasons: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.status != FINISHED and outcome.reason:
            reasons.setdefault((outcome.status, outcome.reason), []).append(outcome)
    rows = [
        [Entry(status), entry(len(runs)), Entry(describe(runs[0].labels)), Entry(reason)]
        for (status, reason), runs in reasons.items()
    ]
    columns = ["status", "runs", "first of them", "reason"]
    return [Table("Runs that did not finish", columns, rows)] if rows else []


def _summary(path: Path) -> list[Table]:
    if not path.is_file():
        return []
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: is no table: {error}. Remove it, or make it again.") from None
    return [_table("Summary", frame)]


def _runs(outcomes: Sequence[Outcome]) -> Table:
    frame = results_table(outcomes)
    # The name of a run is its longest column and is read least.
    frame = frame[[*(column for column in frame if column != "run"), "run"]]
    marks = [f"{UNLEARNED} nothing" if outcome.learned is False else None for outcome in outcomes]
    frame = frame.assign(learned=marks).dropna(axis="columns", how="all")
    kept = {*varied(outcomes), "run", "metric", "learned"}
    alike = [name for name in frame if name not in kept and len(frame) > 1 and frame[name].map(str).nunique() == 1]
    shared = [f"{name.replace('_', ' ')} {_entry(name, frame[name].iloc[0]).text}" for name in alike]
    table = _table("All runs", frame.drop(columns=alike))
    return replace(table, text=f"The same for all: {_listed(shared)}." if shared else "")


def _table(caption_text: str, frame: pd.DataFrame) -> Table:
    columns = [str(column) for column in frame]
    rows = [
        [_entry(name, value) for name, value in zip(columns, row, strict=True)]
        for row in frame.itertuples(index=False, name=None)
    ]
    return Table(caption_text, [name.replace("_", " ") for name in columns], rows, sortable=True)


def _entry(column: str, value: Any) -> Entry:
    if isinstance(value, list):
        return entry(value)
    if pd.isna(value):
        return Entry("")
    plain_value = value.item() if hasattr(value, "item") else value
    if isinstance(plain_value, float) and (column in COUNTS or column == SEED):
        plain_value = int(plain_value)
    return entry(plain_value)


def _pictures(outcomes: Sequence[Outcome], target: float | None) -> list[Pictures]:
    pictures = []
    if grids := make_grids(outcomes):
        shown = grids[:MOST_PANELS]
        text = caption(shown, len(grids) - len(shown))
        plots = [draw_heatmap(grid, colour_range(grid, shown)) for grid in shown]
        pictures.append(Pictures("Heat map", plots, text, "heatmap", columns=2))
    kinds: Mapping[str, tuple[str, list[Chart]]] = {
        "metric": ("Metric by label", label_charts(outcomes)),
        "curves": ("Learning curves", band_charts(outcomes)),
        "reach": ("Time to reach a metric", reach_charts(outcomes, target)),
        "parameters": ("Metric by trained parameters", parameter_charts(outcomes)),
    }
    return pictures + [
        Pictures(heading, [draw_chart(chart) for chart in charts], charts[0].caption, name, columns=2)
        for name, (heading, charts) in kinds.items()
        if charts
    ]
