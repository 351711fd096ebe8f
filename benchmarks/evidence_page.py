"""The page about the evidence, made from its raw results: tables with intervals, pictures, and what held."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from qvtune.lab.outcome import FINISHED, Outcome
from qvtune.lab.statistics import PairedTest, paired_test, spread
from qvtune.report.chart import Chart, Series
from qvtune.report.grid import make_grids
from qvtune.report.heatmap import colour_range, draw_heatmap
from qvtune.report.lines import draw_chart
from qvtune.report.plot import side_by_side, to_png
from qvtune.training.folder import RunFolder

PAIR = ["task", "seed"]
# By so much of a metric may query and value be behind all three and still count as good.
MARGIN = 0.01


def write_page(out: Path, settings: dict[str, Any]) -> None:
    """Write OUT.md beside the folder OUT, and the pictures in it."""
    runs, curves = pd.read_csv(out / "runs.csv"), pd.read_csv(out / "curves.csv")
    heatmap = pd.read_csv(out / "heatmap.csv")
    parts = [
        _introduction(runs, settings),
        _roles(runs),
        _ratios(runs, curves),
        _heatmap(heatmap, settings, out),
        _verdicts(runs, curves, heatmap),
    ]
    (out / "curves.png").write_bytes(to_png(_draw_curves(curves)))
    text = "\n\n".join(parts)
    out.with_suffix(".md").write_text("\n\n".join(map(_wrapped, text.split("\n\n"))) + "\n", encoding="utf-8")


def _introduction(runs: pd.DataFrame, settings: dict[str, Any]) -> str:
    tasks = "; ".join(
        f"{task} {value['epochs']} epoch{'s' if value['epochs'] > 1 else ''}"
        + (f" of {value['max_train_samples']:,} examples" if "max_train_samples" in value else "")
        for task, value in settings["tasks"].items()
    )
    return f"""# Evidence

What the paper claims ("Theoretical Insights into Fine-Tuning Attention Mechanism", Yao et al., IJCAI 2025), tried on MiniLM-L6
(22.7 M parameters) and the GLUE tasks at hand: {len(runs)} runs for roles and ratios over {runs["seed"].nunique()} seeds, and a heat map. The
[raw results](evidence/runs.csv), the [metric at every evaluation](evidence/curves.csv) and the [heat map's](evidence/heatmap.csv)
are committed; `python benchmarks/evidence.py --glue-dir GLUE --store DIR` makes them, this page and its pictures.

LoRA of rank {settings["rank"]}, alpha 8, dropout 0.1, batches of {settings["batch_size"]}, linear decay, η_QK {settings["lr"]:g}, head at {settings["head_lr"]:g}; {tasks}. No checkpoint was chosen by the set that it is measured on: the last weights count. Heads start at random, with a rate at which these tasks learn in so few epochs. Metrics are Matthews correlation on CoLA, accuracy on MRPC, RTE and SST-2, Pearson correlation on STS-B, on the development sets. Intervals are of 95 %, by Student's t over pairs of runs with the same
task and seed; pairs of one task are not quite independent, so read them as a little too narrow. ± is one standard deviation over
the seeds."""


def _roles(runs: pd.DataFrame) -> str:
    equal = runs[runs["lr_ratio"] == 1]
    counts = equal.groupby("roles")["adapter_parameters"].first()
    rows = {f"{roles} ({int(counts[roles]):,})": equal[equal["roles"] == roles] for roles in ("k", "v", "qv", "qkv")}
    tests = [
        ("v against k", difference(equal, {"roles": "v"}, {"roles": "k"})),
        ("qv against v", difference(equal, {"roles": "qv"}, {"roles": "v"})),
        ("qv against qkv", difference(equal, {"roles": "qv"}, {"roles": "qkv"})),
    ]
    return f"""## Roles at equal rank and rate (λ = 1)

{_by_task(rows, "roles (adapter parameters)")}

{_differences(tests)}"""


def _ratios(runs: pd.DataFrame, curves: pd.DataFrame) -> str:
    qv = runs[runs["roles"] == "qv"]
    ratios = sorted(qv["lr_ratio"].unique())
    rows = {f"{ratio:g}": qv[qv["lr_ratio"] == ratio] for ratio in ratios}
    tests = [(f"λ = {ratio:g} against 1", difference(qv, {"lr_ratio": ratio}, {"lr_ratio": 1})) for ratio in ratios[1:]]
    return f"""## λ for query and value

{_by_task(rows, "λ")}

{_differences(tests)}

Steps until the metric is first what λ = 1 has at its end (same task and seed), as a part of λ = 1's steps: the median over the seeds that
reached it, and how many did.

{_steps_table(curves)}

![Metric over the steps by λ, mean over seeds](evidence/curves.png)"""


def _steps_table(curves: pd.DataFrame) -> str:
    steps = steps_to_reach(curves)
    ratios = sorted(steps["lr_ratio"].unique())
    lines = [
        "| λ | " + " | ".join(sorted(steps["task"].unique())) + " |",
        "| --- " * (steps["task"].nunique() + 1) + "|",
    ]
    for ratio in ratios:
        cells = []
        for task in sorted(steps["task"].unique()):
            parts = steps[(steps["task"] == task) & (steps["lr_ratio"] == ratio)]["part"]
            reached = parts.dropna()
            cells.append(
                f"{reached.median():.0%}, {len(reached)} of {len(parts)}" if len(reached) else f"0 of {len(parts)}"
            )
        lines.append(f"| {ratio:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def steps_to_reach(curves: pd.DataFrame) -> pd.DataFrame:
    """Return, for every task, seed and λ, the part of λ = 1's steps after which its last metric is first reached.

    `part` is empty where it is never reached.
    """
    rows = []
    qv = curves[curves["roles"] == "qv"]
    for (task, seed), runs in qv.groupby(PAIR):
        one = runs[runs["lr_ratio"] == 1].sort_values("step")
        target, length = one["metric"].iloc[-1], one["step"].iloc[-1]
        for ratio, points in runs.groupby("lr_ratio"):
            reached = points[points["metric"] >= target]["step"]
            rows.append((task, seed, ratio, reached.min() / length if len(reached) else None))
    return pd.DataFrame(rows, columns=[*PAIR, "lr_ratio", "part"])


def _heatmap(table: pd.DataFrame, settings: dict[str, Any], out: Path) -> str:
    grids = make_grids(_outcomes(table))
    plots = [draw_heatmap(grid, colour_range(grid, grids)) for grid in grids]
    (out / "heatmap.png").write_bytes(to_png(side_by_side(plots, columns=2)))
    metric = table["metric_name"].dropna().iloc[0].replace("_", " ")
    best, (above, other, test) = _best_cell(table), _sides(table)
    run = settings["heatmap"]
    return f"""## Heat map over η_QK and η_V

{run["task"]}, {metric}, {run["epochs"]} epoch of {run["max_train_samples"]:,} examples, query and value, head at {settings["head_lr"]:g}, {table["seed"].nunique()} seeds a cell.

![Heat map over the two rates](evidence/heatmap.png)

The best cell is η_QK = {best[0]:g}, η_V = {best[1]:g} (λ = {best[1] / best[0]:g}) with {best[2]:.4f}. The best above the diagonal λ = 1 is η_QK = {above[0]:g}, η_V = {above[1]:g} with {above[2]:.4f}, the best on or below it η_QK = {other[0]:g}, η_V = {other[1]:g} with {other[2]:.4f}: a difference of {_interval(test)} over seeds. The best of several cells flatters, on both sides alike. Grids of four tasks with longer runs are in [benchmarks/suggest.md](benchmarks/suggest.md)."""


def _sides(table: pd.DataFrame) -> tuple[tuple[float, float, float], tuple[float, float, float], PairedTest]:
    """Return the best cell above the diagonal, the best of the others, and the difference of the two."""
    is_above = table["value_lr"] > table["lr"]
    above, other = _best_cell(table[is_above]), _best_cell(table[~is_above])
    labels = [{"lr": cell[0], "value_lr": cell[1]} for cell in (above, other)]
    return above, other, difference(table, labels[0], labels[1], pair=["seed"])


def _best_cell(table: pd.DataFrame) -> tuple[float, float, float]:
    means = table.groupby(["lr", "value_lr"])["metric"].mean()
    lr, value_lr = means.idxmax()
    return float(lr), float(value_lr), float(means.max())


def _outcomes(table: pd.DataFrame) -> list[Outcome]:
    outcomes = []
    for row in table.to_dict("records"):
        result = {"main_metric": row["metric_name"], "metrics": {row["metric_name"]: row["metric"]}}
        labels = {name: row[name] for name in ("lr", "value_lr", "seed")}
        known = result if row["status"] == FINISHED else {}
        outcomes.append(Outcome("", labels, RunFolder(Path()), row["status"], None, known))
    return outcomes


def _verdicts(runs: pd.DataFrame, curves: pd.DataFrame, heatmap: pd.DataFrame) -> str:
    equal, qv = runs[runs["lr_ratio"] == 1], runs[runs["roles"] == "qv"]
    value_key = difference(equal, {"roles": "v"}, {"roles": "k"})
    two_three = difference(equal, {"roles": "qv"}, {"roles": "qkv"})
    ratios = {r: difference(qv, {"lr_ratio": r}, {"lr_ratio": 1}) for r in sorted(qv["lr_ratio"].unique()) if r != 1}
    better = [f"{r:g}" for r, test in ratios.items() if test.low is not None and test.low > 0]
    steps = steps_to_reach(curves)
    faster = steps[steps["lr_ratio"] > 1]["part"]
    *_, sides = _sides(heatmap)
    larger = difference(qv, {"lr_ratio": 8}, {"lr_ratio": 4})
    lines = [
        f"- **Training the value alone beats training the key alone**: {_held(value_key, 0.0)} "
        f"(difference {_interval(value_key)}).",
        "- **Query and value are as good as all three, with fewer parameters**: "
        f"{_held(two_three, -MARGIN)} within {MARGIN:g} (difference {_interval(two_three)}).",
        f"- **λ above 1 ends better than λ = 1**: held for λ = {', '.join(better)} of "
        f"{', '.join(f'{r:g}' for r in ratios)}."
        if better
        else "- **λ above 1 ends better than λ = 1**: not decided by these runs.",
        f"- **λ above 1 converges faster**: {faster.notna().sum()} of {len(faster)} runs with λ above 1 reached what λ = 1 has at "
        f"its end, half of those within {faster.median():.0%} of its steps.",
        f"- **The best rates lie above the diagonal**: {_held(sides, 0.0)} in this heat map (best above against best of the others {_interval(sides)}).",
        f"- **A larger λ is not always better**: λ = 8 against 4 {_interval(larger)}; {_behind(qv)} of the {larger.pairs} runs with λ = 8 ended below their λ = 1.",
    ]
    return "## What held here\n\n" + "\n".join(lines)


def _behind(qv: pd.DataFrame) -> int:
    by_ratio = qv.pivot_table(index=PAIR, columns="lr_ratio", values="metric")
    return int((by_ratio[8] < by_ratio[1]).sum())


def _wrapped(paragraph: str) -> str:
    """Wrap plain text and the items of a list to the width of the other pages."""
    if paragraph.startswith(("|", "#", "!")):
        return paragraph
    items = paragraph.splitlines() if paragraph.startswith("- ") else [" ".join(paragraph.split())]
    indent = "  " if paragraph.startswith("- ") else ""
    return "\n".join(textwrap.fill(item, 120, subsequent_indent=indent, break_long_words=False) for item in items)


def _held(test: PairedTest, bound: float) -> str:
    if test.low is not None and test.low > bound:
        return "held"
    return "did not hold" if test.high is not None and test.high < bound else "not decided by these runs"


def difference(
    runs: pd.DataFrame, one: dict[str, Any], other: dict[str, Any], pair: Sequence[str] = PAIR
) -> PairedTest:
    """Test runs with the labels of `one` against those of `other`, paired by task and seed."""
    picked = []
    for labels in (one, other):
        rows = runs
        for name, value in labels.items():
            rows = rows[rows[name] == value]
        picked.append(rows.dropna(subset=["metric"]).set_index(list(pair))["metric"])
    both = picked[0].index.intersection(picked[1].index)
    return paired_test(picked[0][both].tolist(), picked[1][both].tolist())


def _by_task(rows: dict[str, pd.DataFrame], first: str) -> str:
    tasks = sorted({task for frame in rows.values() for task in frame["task"]})
    lines = [f"| {first} | " + " | ".join(tasks) + " | mean |", "| --- " * (len(tasks) + 2) + "|"]
    best = {task: max(frame[frame["task"] == task]["metric"].mean() for frame in rows.values()) for task in tasks}
    for name, frame in rows.items():
        cells = []
        for task in tasks:
            found = spread(frame[frame["task"] == task]["metric"].dropna().tolist())
            assert found.mean is not None
            text = f"{found.mean:.3f} ± {found.sd:.3f}" if found.sd is not None else f"{found.mean:.3f}"
            cells.append(f"**{text}**" if found.mean >= best[task] else text)
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {frame.groupby('task')['metric'].mean().mean():.3f} |")
    return "\n".join(lines)


def _differences(tests: Sequence[tuple[str, PairedTest]]) -> str:
    lines = ["| difference, all tasks | mean and 95 % interval | pairs | p (t-test) |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {_interval(test)} | {test.pairs} | {_probability(test)} |" for name, test in tests]
    return "\n".join(lines)


def _interval(test: PairedTest) -> str:
    if test.low is None or test.high is None:
        return f"{test.difference:+.4f} ({test.note})" if test.difference is not None else test.note
    return f"{test.difference:+.4f} ({test.low:+.4f} to {test.high:+.4f})"


def _probability(test: PairedTest) -> str:
    return "-" if test.p_t is None else f"{test.p_t:.3f}" if test.p_t >= 0.001 else "below 0.001"


def _draw_curves(curves: pd.DataFrame) -> dict[str, Any]:
    qv = curves[curves["roles"] == "qv"]
    charts = []
    for task in sorted(qv["task"].unique()):
        series = []
        for ratio, points in qv[qv["task"] == task].groupby("lr_ratio"):
            by_step = points.groupby("step")["metric"]
            values = [list(found) for found in (by_step.mean(), by_step.min(), by_step.max())]
            series.append(Series(f"λ = {ratio:g}", list(map(float, by_step.mean().index)), *values))
        charts.append(Chart(task, "step", "metric (mean, lowest to highest seed)", series))
    return side_by_side([draw_chart(chart) for chart in charts], columns=len(charts))
