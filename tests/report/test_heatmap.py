"""How a heat map is drawn: what stands in its cells, hatching, and that text stays text."""

from xml.etree import ElementTree

import pytest

from qvtune.report.grid import make_grids
from qvtune.report.heatmap import caption, cell_details, colour_range, draw_heatmap, visible_line
from qvtune.report.plot import save_plots

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('x')</script>$_^"


@pytest.fixture
def grid(make):
    ends = [(1e-4, 1e-4, 0.5), (1e-4, 1e-3, 0.75), (1e-3, 1e-4, 0.625)]
    runs = [make({"lr": x, "value_lr": y, "seed": seed}, metric) for x, y, metric in ends for seed in (0, 1)]
    runs.append(make({"lr": 1e-3, "value_lr": 1e-3, "seed": 0}, status="diverged", reason=EVIL))
    return make_grids(runs)[0]


def layers(plot, kind):
    return [layer for layer in plot.spec["layer"] if layer["mark"]["type"] == kind]


def draw(grid):
    return draw_heatmap(grid, colour_range(grid, [grid]))


def test_picture_has_values_hatching_and_the_best_cell(grid):
    plot = draw(grid)
    rows = {(row["x"], row["y"]): row for row in plot.spec["data"]["values"]}
    texts = {place: row["text"] for place, row in rows.items()}
    assert texts == {
        (0, 0): "0.500\nn = 2",
        (0, 1): "★ 0.750\nn = 2",
        (1, 0): "0.625\nn = 2",
        (1, 1): "diverged",
    }
    (hatches,) = layers(plot, "rule")
    ends = [(line[x], line[y]) for line in hatches["data"]["values"] for x, y in (("x", "y"), ("x2", "y2"))]
    assert all(0.5 < x < 1.5 and 0.5 < y < 1.5 for x, y in ends)
    assert [place for place, row in rows.items() if row["best"]] == [(0, 1)]
    (frame,) = [layer for layer in layers(plot, "rect") if layer["mark"].get("filled") is False]
    assert frame["transform"] == [{"filter": "datum.best"}]
    assert frame["encoding"]["x"]["axis"]["labelExpr"] == '["1e-4", "1e-3"][datum.value]'


def test_a_cell_that_learned_nothing_is_marked(make):
    runs = [make({"lr": x, "value_lr": y}, x + y) for x in (0.1, 0.2) for y in (0.1, 0.3)]
    runs[3].result["learned"] = False
    (grid,) = make_grids(runs)
    texts = {(row["x"], row["y"]): row["text"] for row in draw(grid).spec["data"]["values"]}
    assert [texts[place] for place in grid.cells] == ["0.200", "★ 0.400", "0.300", "∅ 0.500"]
    assert cell_details(grid, grid.cells[1, 1]).endswith("\n∅ 1 of 1 run learned nothing")
    assert "∅ marks cells whose runs learned nothing" in caption([grid], 0)
    runs[3].result["learned"] = True
    assert "∅" not in caption(make_grids(runs), 0)


def test_line_leaves_the_values_free(grid):
    xs, ys = visible_line(grid)
    drawn = [(x, y) for x, y in zip(xs, ys, strict=True) if x is not None]
    assert all(x == pytest.approx(y) for x, y in drawn)
    assert min(x for x, _ in drawn) == pytest.approx(-0.5)
    assert not any(abs(x - round(x)) < 0.2 and abs(y - round(y)) < 0.2 for x, y in drawn)


def test_page_shows_the_same_and_details_on_hover(grid):
    rows = {(row["x"], row["y"]): row for row in draw(grid).for_page()["data"]["values"]}
    means = {place: row["mean"] for place, row in rows.items()}
    assert means == {
        (0, 0): 0.5,
        (1, 0): 0.625,
        (0, 1): 0.75,
        (1, 1): None,
    }
    assert rows[0, 1]["details"] == "η_QK 1e-4, η_V 1e-3, λ 10\naccuracy 0.7500 ± 0.0000 (2 seeds)"
    hover = rows[1, 1]["details"]
    assert "1 diverged" in hover
    assert EVIL in hover  # as text: see test_browser.py
    written = {row["text"] for row in rows.values()}
    assert written == {"0.500\nn = 2", "★ 0.750\nn = 2", "0.625\nn = 2", "diverged"}


def test_details_of_a_ratio_grid_name_the_rate_of_the_value(make):
    runs = [make({"lr": x, "lr_ratio": y}, x * y) for x in (1e-4, 1e-3) for y in (1.0, 4.0)]
    (grid,) = make_grids(runs)
    assert cell_details(grid, grid.cells[1, 1]).startswith("η_QK 1e-3, λ 4, η_V 4e-3\n")


def test_colours_are_shared_by_panels_of_one_task_alone(make):
    runs = [
        make({"task": task, "rank": rank, "lr": x, "value_lr": y}, start + rank / 100 + x)
        for task, start in (("rte", 0.5), ("mrpc", 0.8))
        for rank in (2, 4)
        for x in (1e-4, 1e-3)
        for y in (1e-4, 1e-3)
    ]
    grids = make_grids(runs)
    assert len(grids) == 4
    ranges = [colour_range(grid, grids) for grid in grids]
    assert ranges[0] == ranges[1] == (pytest.approx(0.5201), pytest.approx(0.541))
    assert ranges[2] == ranges[3] == (pytest.approx(0.8201), pytest.approx(0.841))


def test_caption_says_what_is_left_out(grid):
    assert "Hatched cells have no finished run" in caption([grid], 0)
    assert "2 further panels left out" in caption([grid], 2)


def test_dollar_signs_are_no_mathematics(make, tmp_path):
    runs = [
        make({"m$_": f"$^{m}", "lr": x, "value_lr": y}, 0.5 + x)
        for m in "ab"
        for x in (1e-4, 1e-3)
        for y in (1e-4, 1e-3)
    ]
    save_plots(tmp_path / "x", [draw(grid) for grid in make_grids(runs)], 2)
    written = ["".join(text.itertext()) for text in ElementTree.parse(tmp_path / "x.svg").iter(f"{SVG}text")]
    assert {"$^a", "$^b"} <= set(written)
