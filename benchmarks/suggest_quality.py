"""What `suggest` finds for a twentieth of what a grid of 6 x 6 costs, against a grid.

    python benchmarks/suggest_quality.py --glue-dir GLUE --store runs/suggest --workers 2    # hours
    python benchmarks/suggest_quality.py                                                     # the page alone

Every cell of a grid over (η_QK, η_V) is trained in full with three seeds; `suggest` gets 5 % of what one seed of a
grid of 6 x 6 costs, and its rates are trained in full with the same seeds, and so is the library's default rate at
λ = 1. The grid is coarser, to save time. The head has one rate throughout. The first form writes runs.csv and
suggestions.json in docs/benchmarks/suggest and a picture of every search; both forms make the page
docs/benchmarks/suggest.md and the heat maps, on which the suggestion is marked.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qvtune.lab.execution import Execution
from qvtune.lab.sweep import sweep
from qvtune.options import parse_options
from qvtune.report.lines import draw_chart
from qvtune.report.plot import side_by_side, to_png, to_spec
from qvtune.report.search_page import SearchReport
from qvtune.report.theme import ACCENT, NEUTRAL, STAR, ink
from qvtune.search.suggest import suggest

SEEDS = [0, 1, 2]
RATES = [1e-4, 4e-4, 1.6e-3, 6.4e-3, 2.56e-2]
# Of each task those about its best cell.
GRIDS = {"cola": RATES[:4], "mrpc": RATES, "sst2": RATES[1:], "stsb": RATES[:4]}
# 5 % of 36 runs, in parts of one.
BUDGET = "180%"
DEFAULT_LR = 4e-4
SHARED = {"model": "pkg:minilm", "head_lr": 5e-3, "batch_size": 16, "keep_best": False, "head_start": "random"}
TASKS: dict[str, dict[str, Any]] = {
    "cola": {"epochs": 3, "max_train_samples": 5_000},
    "mrpc": {"epochs": 3, "max_train_samples": 2_000},
    "sst2": {"epochs": 2, "max_train_samples": 4_000},
    "stsb": {"epochs": 3, "max_train_samples": 3_000},
}
GRID, SUGGESTED, DEFAULT = "grid", "suggested", "default"


def train(glue_dir: Path, store: Path, tasks: list[str], execution: Execution, out: Path) -> None:
    """Train what the stores do not hold, and write the raw results."""
    frames: list[pd.DataFrame] = []
    found: dict[str, Any] = {}
    for task in tasks:
        options = SHARED | TASKS[task] | {"task": task, "glue_dir": str(glue_dir)}
        grid = {"lr": GRIDS[task], "value_lr": GRIDS[task], "seed": SEEDS}
        table = sweep(options, grid, out=store / task / GRID, execution=execution).table
        frames.append(asked(table, GRIDS[task], GRIDS[task]).assign(kind=GRID, task=task))
        suggestion = suggest(options, budget=BUDGET, out=store / task / "search")
        found[task] = suggestion.to_dict()
        out.mkdir(parents=True, exist_ok=True)
        plots = [draw_chart(chart) for chart in SearchReport(task, suggestion).charts]
        (out / f"{task}.png").write_bytes(to_png(side_by_side(plots, columns=3)))
        value_lr = suggestion.lr * suggestion.lr_ratio
        for kind, lr, value in ((SUGGESTED, suggestion.lr, value_lr), (DEFAULT, DEFAULT_LR, DEFAULT_LR)):
            runs = [{"lr": lr, "value_lr": value, "seed": seed} for seed in SEEDS]
            table = sweep(options, runs, out=store / task / kind, execution=execution).table
            frames.append(asked(table, [lr], [value]).assign(kind=kind, task=task))
    columns = ["task", "kind", "lr", "value_lr", "seed", "status", "metric", "metric_name", "steps", "seconds"]
    put_tasks(pd.concat(frames)[columns], found, out)


def asked(table: pd.DataFrame, lr: list[float], value_lr: list[float]) -> pd.DataFrame:
    """Return the runs at these rates alone; a store may hold those of an earlier suggestion or a wider grid."""
    return table[table["lr"].isin(lr) & table["value_lr"].isin(value_lr)]


def put_tasks(runs: pd.DataFrame, found: dict[str, Any], out: Path) -> None:
    """Write the results of these tasks in place of what the files have of them."""
    runs_file, found_file = out / "runs.csv", out / "suggestions.json"
    if runs_file.is_file():
        before = pd.read_csv(runs_file)
        runs = pd.concat([before[~before["task"].isin(found)], runs])
        found = json.loads(found_file.read_text(encoding="utf-8")) | found
    runs.to_csv(runs_file, index=False)
    found_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def write_page(out: Path) -> None:
    """Write OUT.md and the heat maps from the raw results."""
    runs = pd.read_csv(out / "runs.csv")
    found = json.loads((out / "suggestions.json").read_text(encoding="utf-8"))
    rows = [task_row(runs[runs["task"] == task], found[task], task) for task in sorted(found)]
    within = sum(row["within"] for row in rows)
    gain = sum(row[SUGGESTED] - row[DEFAULT] for row in rows) / len(rows)
    lines = [
        "| task | grid | its best: η_QK, η_V | metric | suggested: η_QK, η_V (λ) | metric | behind | within 1 s.e. | "
        "λ = 1, 4e-4 |",
        "| --- " * 9 + "|",
        *(row["line"] for row in rows),
    ]
    kept = sum(search["choice"] == search["trials"][0]["rates"] for search in found.values())
    text = f"""# `suggest` against a grid

Made by `python benchmarks/suggest_quality.py`. MiniLM, LoRA of rank 8 on query and value, batches of 16, head at 5e-3,
the last checkpoint; every cell of a grid and every choice trained in full with {len(SEEDS)} seeds. `suggest` had
{BUDGET} of one run, which is 5 % of what one seed of a grid of 6 x 6 takes; the grids here are coarser, of the cells
about the best one. A cell is as good as its mean over seeds, 0 for a run that diverged; the best of so many cells
flatters by noise. ± is the standard deviation over seeds, s.e. the standard error of the difference of two means.

{chr(10).join(lines)}

Within one standard error of the grid's best cell, or above it: {within} of {len(rows)} tasks. Against λ = 1 at the
library's default rate: {gain:+.4f} of the metric on average. In {kept} of {len(rows)} tasks no trial beat LoRA's
default rates, η_QK = 4e-4 and λ = 4, so that these are suggested. The search was developed on these tasks, which
flatter it.

| task | steps of a run | grid, one seed: runs, steps, time | suggest: steps, time | of this grid | of 6 x 6 | sure |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(row["cost"] for row in rows)}

Time is of training alone; the grid's runs were trained two at a time, beside other work, so that steps compare better.

![Heat maps, the suggestion marked](suggest/grids.png)

What the searches saw:

{chr(10).join(f"![Range tests and trials on {task}](suggest/{task}.png)" for task in sorted(found))}
"""
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    (out / "grids.png").write_bytes(to_png(draw_grids(runs, found)))


def task_row(runs: pd.DataFrame, found: dict[str, Any], task: str) -> dict[str, Any]:
    """Return what the page says of a task."""
    runs = runs.assign(metric=runs["metric"].fillna(0.0))
    grid = runs[runs["kind"] == GRID]
    cells = grid.groupby(["lr", "value_lr"])["metric"].agg(["mean", "std", "count"])
    lr, value_lr = cells["mean"].idxmax()
    best = cells.loc[(lr, value_lr)]
    suggested, default = (runs[runs["kind"] == kind]["metric"] for kind in (SUGGESTED, DEFAULT))
    error = math.sqrt(best["std"] ** 2 / best["count"] + suggested.std() ** 2 / len(suggested))
    behind = best["mean"] - suggested.mean()
    fields = [
        task,
        f"{grid['lr'].nunique()} x {grid['value_lr'].nunique()}",
        f"{lr:g}, {value_lr:g}",
        f"{best['mean']:.4f} ± {best['std']:.4f}",
        f"{found['lr']:g}, {found['lr'] * found['lr_ratio']:.3g} ({found['lr_ratio']:g})",
        f"{suggested.mean():.4f} ± {suggested.std():.4f}",
        f"{behind:.4f}, s.e. {error:.4f}",
        "yes" if behind <= error else "no",
        f"{default.mean():.4f} ± {default.std():.4f}",
    ]
    return {
        "line": table_line(fields),
        "cost": table_line([task, *costs(grid[grid["seed"] == SEEDS[0]], found)]),
        "within": behind <= error,
        SUGGESTED: suggested.mean(),
        DEFAULT: default.mean(),
    }


def costs(grid: pd.DataFrame, found: dict[str, Any]) -> list[str]:
    """Return what one seed of the grid cost, and what `suggest` did."""
    cost, run = found["cost"], found["cost"]["in_steps"] / found["cost"]["part"]
    return [
        f"{run:.0f}",
        f"{len(grid)}, {grid['steps'].sum():,.0f}, {grid['seconds'].sum():,.0f} s",
        f"{cost['in_steps']:,.0f}, {cost['seconds']:,.0f} s",
        f"{cost['in_steps'] / grid['steps'].sum():.1%}",
        f"{cost['part'] / 36:.1%}",
        found["confidence"]["level"],
    ]


def table_line(fields: list[str]) -> str:
    """Return a line of a table in Markdown."""
    return f"| {' | '.join(fields)} |"


def draw_grids(runs: pd.DataFrame, found: dict[str, Any]) -> dict[str, Any]:
    """Draw the mean of every cell by task, with the suggested rates as a star and λ = 1 as a line."""
    grids = [
        draw_grid(runs[(runs["task"] == task) & (runs["kind"] == GRID)], task, found[task]) for task in sorted(found)
    ]
    return {"hconcat": grids, "resolve": {"scale": {"color": "independent"}}}


def draw_grid(grid: pd.DataFrame, task: str, found: dict[str, Any]) -> dict[str, Any]:
    """Draw one task; places are logarithms, so that cells are of one size and the numbers in their middle."""
    import altair as alt

    means = grid.assign(metric=grid["metric"].fillna(0.0)).groupby(["lr", "value_lr"])["metric"].mean()
    places = {rate: float(np.log10(rate)) for rate in sorted({*grid["lr"], *grid["value_lr"]})}
    step = min(np.diff(list(places.values())))
    low, high = means.min(), means.max()
    cells = [
        {
            "x": places[lr], "y": places[value], "left": places[lr] - step / 2, "right": places[lr] + step / 2,
            "low": places[value] - step / 2, "high": places[value] + step / 2, "metric": mean,
            "ink": ink((mean - low) / ((high - low) or 1)),
        }
        for (lr, value), mean in means.items()
    ]  # fmt: skip
    ends = min(places.values()), max(places.values())
    scale = alt.Scale(domain=[ends[0] - step / 2, ends[1] + step / 2], nice=False, zero=False)
    axis = alt.Axis(values=list(places.values()), labelExpr="format(pow(10, datum.value), '.3~e')", grid=False)

    def layer(rows: list[dict[str, Any]], x: str = "x", y: str = "y", **mark: Any) -> alt.Chart:
        chart = alt.Chart(alt.Data(values=rows), mark=alt.MarkDef(**mark))
        return chart.encode(
            x=alt.X(f"{x}:Q", scale=scale, axis=axis, title="η_QK"),
            y=alt.Y(f"{y}:Q", scale=scale, axis=axis, title="η_V"),
        )

    colours = alt.Color("metric:Q", scale=alt.Scale(scheme="viridis"), title=None)
    rates = {"x": float(np.log10(found["lr"])), "y": float(np.log10(found["lr"] * found["lr_ratio"]))}
    layers = [
        layer(cells, "left", "low", type="rect").encode(x2="right", y2="high", color=colours),
        layer([{"x": end, "y": end} for end in ends], type="line", color=NEUTRAL, strokeDash=[6, 4], strokeWidth=1),
        layer(cells, type="text", fontSize=10).encode(
            text=alt.Text("metric:Q", format=".3f"), color=alt.Color("ink:N", scale=None)
        ),
        layer([rates], type="point", shape=STAR, size=160, fill=ACCENT, stroke="white", opacity=1, clip=True),
    ]
    return to_spec(alt.layer(*layers).properties(title=task, width=260, height=240))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue-dir", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/suggest"))
    parser.add_argument("--only", default=",".join(TASKS), metavar="TASKS")
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args()
    if arguments.store is not None:
        given = {} if arguments.workers is None else {"workers": arguments.workers}
        names = arguments.only.split(",")
        train(arguments.glue_dir, arguments.store, names, parse_options(Execution, given), arguments.out)
    write_page(arguments.out)
