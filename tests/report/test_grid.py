"""What the heat map shows: means over seeds, the best cell, cells without a value, and where λ = 1 lies."""

import math

import numpy as np
import pytest

from qvtune.report.grid import diagonal, make_grids, place

RATES = [1e-5, 1e-4, 1e-3]


def test_cells_are_means_over_seeds_and_the_best_is_marked(make):
    values = {(1e-4, 1e-4): (0.5, 0.7), (1e-4, 1e-3): (0.9, 0.6), (1e-3, 1e-4): (0.4, 0.5), (1e-3, 1e-3): (0.7, 0.7)}
    runs = [
        make({"lr": lr, "value_lr": value_lr, "seed": seed}, metric)
        for (lr, value_lr), metrics in values.items()
        for seed, metric in enumerate(metrics)
    ]
    (grid,) = make_grids(runs)
    assert (grid.x_name, grid.y_name, grid.xs, grid.ys) == ("lr", "value_lr", [1e-4, 1e-3], [1e-4, 1e-3])
    assert {place: cell.mean for place, cell in grid.cells.items()} == {
        (i, j): pytest.approx(np.mean(values[grid.xs[i], grid.ys[j]])) for i in (0, 1) for j in (0, 1)
    }
    assert grid.best == [(0, 1)]
    assert [cell.statuses for cell in grid.cells.values()] == [{"finished": 2}] * 4


def test_equal_cells_are_all_best_unless_all_are_equal(make):
    def best(*metrics):
        at = [(1e-4, 1e-4), (1e-4, 1e-3), (1e-3, 1e-4), (1e-3, 1e-3)]
        runs = [make({"lr": x, "value_lr": y}, metric) for (x, y), metric in zip(at, metrics, strict=True)]
        return make_grids(runs)[0].best

    assert best(0.5, 0.8, 0.8, 0.1) == [(0, 1), (1, 0)]
    assert best(0.5, 0.5, 0.5, 0.5) == []


def test_a_cell_that_learned_nothing_is_not_the_best(make):
    at = {(1e-4, 1e-4): 0.9, (1e-4, 1e-3): 0.6, (1e-3, 1e-4): 0.8, (1e-3, 1e-3): 0.5}
    runs = [make({"lr": x, "value_lr": y, "seed": s}, metric) for (x, y), metric in at.items() for s in (0, 1)]
    for run in runs[:2] + runs[4:5]:
        run.result["learned"] = False
    (grid,) = make_grids(runs)
    assert {place: cell.unlearned for place, cell in grid.cells.items()} == {(0, 0): 2, (0, 1): 0, (1, 0): 1, (1, 1): 0}
    assert [place for place, cell in grid.cells.items() if not cell.learned] == [(0, 0)]
    assert grid.best == [(1, 0)]


def test_cells_without_a_finished_run_are_named_and_not_averaged(make):
    ends = {
        (1e-4, 1e-4): ["finished", "failed"],
        (1e-4, 1e-3): ["pending", "failed"],
        (1e-3, 1e-4): ["stopped", "diverged"],
        (1e-3, 1e-3): ["pending", "pending"],
    }
    runs = [
        make({"lr": x, "value_lr": y, "seed": seed}, 0.25, status=status, reason=f"{status} because")
        for (x, y), statuses in ends.items()
        for seed, status in enumerate(statuses)
    ]
    (grid,) = make_grids(runs)
    assert {place: (cell.status, cell.mean) for place, cell in grid.cells.items()} == {
        (0, 0): ("finished", 0.25),
        (0, 1): ("failed", None),
        (1, 0): ("diverged", None),
        (1, 1): ("pending", None),
    }
    assert grid.cells[1, 0].reasons == ("stopped because", "diverged because")
    assert grid.cells[0, 0].values == (0.25,)


def test_other_labels_make_panels_and_two_numbers_are_enough(make):
    runs = [
        make({"rank": rank, "alpha": alpha, "method": method, "seed": 0}, rank / 10)
        for method in ("lora", "dora")
        for rank in (2, 4)
        for alpha in (8.0, 16.0)
    ]
    first, second = make_grids(runs)
    assert (first.labels, second.labels) == ({"method": "lora"}, {"method": "dora"})
    assert (first.x_name, first.y_name, first.diagonal) == ("rank", "alpha", [])


def test_no_grid_without_two_varied_numbers(make):
    assert make_grids([make({"lr": 1e-4, "seed": 0}, 0.5), make({"lr": 1e-3, "seed": 1}, 0.5)]) == []
    assert make_grids([make({"fast": True, "lr": 1e-4}, 0.5), make({"fast": False, "lr": 1e-3}, 0.5)]) == []


def test_runs_without_a_value_on_an_axis_are_counted(make):
    runs = [make({"lr": x, "value_lr": y}, 0.5) for x in (1e-4, 1e-3) for y in (1e-4, 1e-3, None)]
    (grid,) = make_grids(runs)
    assert (len(grid.cells), grid.skipped) == (4, 2)


def test_diagonal_of_equal_axes_is_straight_through_the_cells():
    line = diagonal(RATES, RATES)
    assert line[0] == pytest.approx((-0.5, -0.5))
    assert line[-1] == pytest.approx((2.5, 2.5))
    assert all(x == pytest.approx(y) for x, y in line)


@pytest.mark.parametrize(
    ("xs", "ys"),
    [
        ([1e-5, 5e-5, 1e-4, 2e-4], [2e-5, 1e-4, 2e-4, 4e-4, 8e-4]),
        ([1e-4, 1e-3], [3e-5, 3e-4, 3e-3]),
        ([1e-5, 2e-5, 1e-3], [1e-5, 1e-4, 1e-3]),
    ],
)
def test_diagonal_of_other_axes_is_right_between_categories(xs, ys):
    line = np.array(diagonal(xs, ys))
    # Independently: interpolate the logarithm of the rate at every place of either axis, and compare.
    for x, y in line:
        inside = (0 <= x <= len(xs) - 1, 0 <= y <= len(ys) - 1)
        rate_x = np.interp(x, range(len(xs)), np.log(xs))
        rate_y = np.interp(y, range(len(ys)), np.log(ys))
        if all(inside):
            assert rate_x == pytest.approx(rate_y)
    assert np.all(np.diff(line[:, 0]) > 0)
    for rate in set(xs) & set(ys):
        assert any(np.allclose(point, (xs.index(rate), ys.index(rate))) for point in line)


def test_diagonal_by_hand():
    # 1e-3 is in the middle between 1e-4 and 1e-2; the map of x ends half a step beyond 1e-3.
    line = diagonal([1e-4, 1e-3], [1e-4, 1e-2])
    assert (1.0, 0.5) in [pytest.approx(point) for point in line]
    assert line[0] == pytest.approx((-0.5, -0.25))
    assert line[-1] == pytest.approx((1.5, 0.75))


def test_no_diagonal_without_a_common_range():
    assert diagonal([1e-6, 1e-5], [1e-3, 1e-2]) == []


def test_line_of_ratio_one_is_horizontal_and_only_within_the_map(make):
    def line(*ratios):
        return make_grids([make({"lr": x, "lr_ratio": y}, 0.5) for x in RATES for y in ratios])[0].diagonal

    assert line(0.5, 1.0, 4.0) == [(-0.5, 1.0), (2.5, 1.0)]
    assert line(0.5, 2.0) == [(-0.5, pytest.approx(0.5)), (2.5, pytest.approx(0.5))]
    assert line(4.0, 16.0) == []


def test_place_beyond_the_ends_goes_on_by_the_nearest_step():
    assert place(1e-6, RATES) == pytest.approx(-1)
    assert place(math.sqrt(1e-7), RATES) == pytest.approx(1.5)
    assert place(1e-2, RATES) == pytest.approx(3)
