"""The page, pictures and files of a scaling experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qvtune.files import write_json, write_text
from qvtune.lab.formats import to_markdown
from qvtune.report.chart import Chart, Series
from qvtune.report.document import Entry, Page, Pictures, Table
from qvtune.report.lines import draw_chart
from qvtune.report.page import write_page
from qvtune.report.scaling_tables import (
    FAMILY_NAMES,
    METHOD_NAMES,
    TERMS,
    TOY_TITLES,
    Titled,
    block_tables,
    cell_title,
    exponent_text,
    headline,
    shown_step,
    toy_tables,
)
from qvtune.theory.results import ScalingResult, Sizes, ToyResult
from qvtune.theory.toy import QUANTITIES
from qvtune.training.folder import check_free

RECORD = "scaling.json"
CAPTION = (
    "Points are geometric means over seeds, bars reach from the lowest seed to the highest, dashed lines are the fits."
)


def write_scaling(result: ScalingResult, path: Path) -> Path:
    """Write an experiment into a folder, and return its page.

    `scaling.json` holds the exponents, `scaling.csv` every measured size, `table.md` the tables, `report.html` the
    page, and PNG and SVG files the pictures.

    Raises:
        RunError: if the folder holds something else, or nothing can be written.
    """
    check_free(path, RECORD)
    data = result.to_dict()
    toy, blocks = toy_tables(data), block_tables(data)
    write_json(path / RECORD, data)
    write_text(path / "scaling.csv", pd.DataFrame(result.records()).to_csv(index=False, lineterminator="\n"))
    write_text(
        path / "table.md", "\n".join(f"## {t.title}\n\n{t.text}\n\n{to_markdown(t.table)}\n" for t in [*toy, *blocks])
    )
    page = Page(_title(result), headline(data), [], [*map(_table, toy), *_pictures(result), *map(_table, blocks)])
    return write_page(path, page)[0]


def _title(result: ScalingResult) -> str:
    widths = result.options.widths
    return f"What a step changes, over widths {widths[0]:,} to {widths[-1]:,}"


def _table(titled: Titled) -> Table:
    rows = [[Entry(text) for text in row] for row in titled.table.rows]
    return Table(titled.title, list(titled.table.header), rows, text=titled.text)


def _pictures(result: ScalingResult) -> list[Pictures]:
    charts = {"toy": _toy_charts(result)}
    headings = {"toy": TOY_TITLES["linear", "factor"]}
    if result.blocks:
        charts |= {"blocks": _block_charts(result), "ratio": [_ratio_chart(result)]}
        headings |= {"blocks": "Real blocks: coordinate check", "ratio": "Real blocks: value to query/key"}
    columns = {"blocks": 2}  # a row for each family
    return [
        Pictures(headings[name], [draw_chart(c) for c in of], of[0].caption, name, columns.get(name, 3))
        for name, of in charts.items()
    ]


def _toy_charts(result: ScalingResult) -> list[Chart]:
    toys = [toy for toy in result.toys if (toy.attention, toy.value) == ("linear", "factor")]
    widths = result.options.widths
    at = shown_step(toys[0].to_dict())
    everything = np.stack([toy.sizes[:, :, at, 2:] for toy in toys])
    limits = float(everything[everything > 0].min() / 2), float(everything.max() * 2)
    caption = (
        f"What step {at + 1} changes in the output: d1 through query and key, d2 through the value, d3 through both. "
    )
    return [
        Chart(
            cell_title(toy.to_dict()),
            "width n",
            "change, root mean square",
            [_toy_series(toy, name, widths, at) for name in TERMS],
            log_x=True,
            log_y=True,
            x_ticks=_ticks(widths),
            y_range=limits,
            caption=caption + CAPTION,
        )
        for toy in toys
    ]


def _toy_series(toy: ToyResult, name: str, widths: list[int], step: int) -> Series:
    return _series(
        name, toy.to_dict()["steps"][step]["exponents"][name], widths, toy.sizes[:, :, step, QUANTITIES.index(name)]
    )


def _block_charts(result: ScalingResult) -> list[Chart]:
    widths = result.options.block_widths
    everything = np.stack([of[..., 0] for block in result.blocks for of in block.sizes.values()])
    limits = float(everything.min() / 2), float(everything.max() * 2)
    caption = (
        "What a first step of each side alone changes in the input of the output projection, per coordinate, at one "
    )
    caption += "rate for all widths. "
    return [
        Chart(
            f"{FAMILY_NAMES[block.family]}, {METHOD_NAMES[block.method]}, rate {block.rate:g}",
            "width",
            "change, root mean square",
            [
                _series(word, block.to_dict()["steps"][0][side], widths, block.sizes[side][..., 0])
                for side, word in (("query_key", "query/key"), ("value", "value"))
            ],
            log_x=True,
            log_y=True,
            x_ticks=_ticks(widths),
            y_range=limits,
            caption=caption + CAPTION,
        )
        for block in result.blocks
    ]


def _ratio_chart(result: ScalingResult) -> Chart:
    widths = result.options.block_widths
    series = []
    for block in result.blocks:
        ratios = (block.sizes["value"] / block.sizes["query_key"])[..., 0]
        name = f"{FAMILY_NAMES[block.family]}, {METHOD_NAMES[block.method]}"
        series.append(Series(name, _floats(widths), _means(ratios)))
    caption = (
        "How many times as much a first step of the value changes as one of query and key, at equal rates; geometric "
    )
    caption += "means over seeds."
    return Chart(
        "value to query/key", "width", "ratio", series, log_x=True, log_y=True, x_ticks=_ticks(widths), caption=caption
    )


def _series(name: str, exponent: dict[str, Any] | None, widths: list[int], sizes: Sizes) -> Series:
    """Return points with the fitted line, from sizes of shape (widths, seeds)."""
    means, x = _means(sizes), np.log(widths)
    fit: Sequence[float] = []
    if exponent is not None:
        # A least-squares line goes through the mean of all points.
        fit = np.exp(np.log(means).mean() + exponent["slope"] * (x - x.mean())).tolist()
    low, high = sizes.min(axis=1).tolist(), sizes.max(axis=1).tolist()
    return Series(f"{name}: {exponent_text(exponent)}", _floats(widths), means, low, high, fit=list(fit), line=False)


def _means(sizes: Sizes) -> list[float]:
    with np.errstate(divide="ignore"):
        return np.exp(np.log(sizes).mean(axis=1)).tolist()


def _floats(widths: list[int]) -> list[float]:
    return [float(width) for width in widths]


def _ticks(widths: list[int]) -> list[float]:
    """Return the first, the middle and the last width, if there is a middle one."""
    return _floats(widths[:: max(1, (len(widths) - 1) // 2)])
