"""The data of the line pictures: bands over seeds, time to reach a metric, metric by parameters and by a label."""

import numpy as np
import pytest

from qvtune.report.bands import MOST_SERIES, band_charts, band_over_seeds
from qvtune.report.chart import Chart, Series, log_ticks
from qvtune.report.labels import describe, label_text, mean_sd, value_ratio, varied
from qvtune.report.lines import draw_chart
from qvtune.report.parameters import label_charts, parameter_charts
from qvtune.report.reach import not_drawn, reach_charts, times_to_reach


def test_mean_and_deviation_are_those_of_numpy():
    values = [0.1, 0.7, 0.4, 0.45]
    assert mean_sd(values) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert mean_sd([0.3]) == (0.3, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4e-4, "4e-4"),
        (1.25e-5, "1.25e-5"),
        (0.5, "0.5"),
        (4.0, "4"),
        (8, "8"),
        (True, "yes"),
        (None, "none"),
        ([1, 2], "1, 2"),
        (0.0, "0"),
        ("qv", "qv"),
        (2e5, "2e5"),
    ],
)
def test_label_text(value, text):
    assert label_text(value) == text


def test_labels_in_words(make):
    assert describe({"method": "lora", "rank": 8, "lr": 4e-4, "lr_ratio": 4.0}) == "lora, rank 8, η_QK 4e-4, λ 4"
    runs = [make({"lr": 1e-4, "rank": 8, "seed": seed}) for seed in (0, 1)]
    assert varied(runs) == {"seed": [0, 1]}


def test_ratio_of_labels_and_of_the_plan(make):
    assert value_ratio(make({"lr": 1e-4, "value_lr": 4e-4})) == pytest.approx(4)
    assert value_ratio(make({"lr_ratio": 2.0})) == 2
    run = make({"value_lr": 4e-4})
    assert value_ratio(run) is None
    run.folder.plan.write_text('{"learning_rates": {"key": 1e-4, "value": 8e-4}}')
    assert value_ratio(run) == pytest.approx(8)


def test_band_is_mean_lowest_and_highest_over_seeds(make):
    first = make({"seed": 0}, 0.8, ((10, 0.5, 1), (20, 0.8, 2)))
    second = make({"seed": 1}, 0.6, ((10, 0.7, 1), (20, 0.6, 2), (30, 0.9, 3)))
    band = band_over_seeds("x", [first, second], ("eval_accuracy",))
    assert band.x == [10, 20, 30]
    assert band.y == pytest.approx([0.6, 0.7, 0.9])
    assert (band.low, band.high) == ([0.5, 0.6, 0.9], [0.7, 0.8, 0.9])
    assert band_over_seeds("x", [first], ("eval_accuracy",)).low == []
    assert band_over_seeds("x", [first], ("loss",)) is None


def test_the_best_series_are_drawn_and_the_rest_counted(make):
    runs = [make({"rank": rank}, rank / 100, ((1, rank / 100, 1),)) for rank in range(1, 12)]
    (chart,) = band_charts(runs)
    assert [series.name for series in chart.series] == [f"rank {rank}" for rank in range(4, 12)]
    assert len(chart.series) == MOST_SERIES
    assert "3 combinations left out" in chart.caption


def test_tasks_have_charts_of_their_own(make):
    runs = [make({"task": t, "method": m}, 0.5, ((1, 0.5, 1),)) for t in ("rte", "mrpc") for m in ("lora", "full")]
    assert [chart.title for chart in band_charts(runs)] == ["accuracy, rte", "accuracy, mrpc"]


def test_time_to_what_ratio_one_reaches_at_its_end(make):
    curves = {
        (1.0, 0): ((10, 0.4, 1.0), (20, 0.5, 2.0), (30, 0.6, 3.0)),
        (1.0, 1): ((10, 0.4, 1.0), (20, 0.5, 2.0), (30, 0.8, 5.0)),
        (4.0, 0): ((10, 0.6, 1.5), (20, 0.9, 2.5), (30, 0.9, 3.5)),
        (4.0, 1): ((10, 0.7, 1.5), (20, 0.8, 3.5), (30, 0.9, 4.5)),
        (8.0, 0): ((10, 0.1, 1.0), (20, 0.2, 2.0), (30, 0.3, 3.0)),
    }
    runs = [make({"lr_ratio": ratio, "seed": seed}, curve[-1][1], curve) for (ratio, seed), curve in curves.items()]
    steps, seconds = reach_charts(runs)
    assert steps.series[0].x == [1, 4, 8]
    assert steps.series[0].y == [30, 20, 30]  # to 0.7, the mean of 0.6 and 0.8
    assert steps.series[0].crossed == [False, False, True]
    assert seconds.series[0].y == pytest.approx([4, 3, 3])
    assert "(to 0.700)" in steps.series[0].name
    assert [point.steps for point in times_to_reach(runs, 0.3)] == [10, 10, 30]
    assert reach_charts(runs, target=0.3)[0].series[0].crossed == [False, False, False]


def test_rates_given_as_two_labels_make_series_per_query_rate(make):
    runs = [
        make({"lr": lr, "value_lr": lr * ratio}, 0.5, ((1, 0.4 + ratio / 10, 1.0), (2, 0.5 + ratio / 10, 2.0)))
        for lr in (1e-4, 2e-4)
        for ratio in (1, 2)
    ]
    steps, _ = reach_charts(runs)
    assert [series.name for series in steps.series] == ["η_QK 1e-4 (to 0.600)", "η_QK 2e-4 (to 0.600)"]
    assert [series.y for series in steps.series] == [[2, 1], [2, 1]]


def test_without_ratio_one_the_page_says_how_to_give_a_target(make):
    runs = [make({"lr_ratio": ratio}, 0.5, ((1, 0.5, 1.0),)) for ratio in (2.0, 4.0)]
    assert reach_charts(runs) == []
    assert "--target" in not_drawn(runs)
    assert reach_charts(runs, target=0.4) != []
    assert not_drawn([make({"method": "lora"}, 0.5), make({"method": "full"}, 0.5)]) is None


def test_time_to_noise_is_not_drawn(make):
    curves = {1.0: ((10, 0.50, 1.0), (20, 0.52, 2.0)), 4.0: ((10, 0.52, 1.0), (20, 0.7, 2.0))}

    def runs(examples, **known):
        found = [make({"lr_ratio": ratio}, curve[-1][1], curve) for ratio, curve in curves.items()]
        for run in found:
            run.result.update(evaluation_examples={"validation": examples, "tuning": 9}, reported_on=["validation"])
        found[0].result.update(known)
        return found

    # One standard error of 0.52 is 0.05 with 100 examples and 0.016 with 1,000.
    assert reach_charts(runs(100)) == []
    assert "did not rise by more than noise" in not_drawn(runs(100))
    steps, _ = reach_charts(runs(1000))
    assert steps.series[0].y == [20, 10]
    assert not_drawn(runs(1000)) is None
    assert reach_charts(runs(1000, learned=False)) == []
    # A target that is given is drawn; what learned nothing does not reach it.
    steps, _ = reach_charts(runs(1000, learned=False), target=0.51)
    assert steps.series[0].crossed == [True, False]


def test_metric_by_parameters_takes_the_best_rates_and_has_error_bars(make):
    runs = [
        make({"rank": rank, "lr": lr, "seed": seed}, metric + seed / 10, parameters=rank * 100)
        for rank, lr, metric in ((2, 1e-4, 0.5), (2, 1e-3, 0.6), (4, 1e-4, 0.8), (4, 1e-3, 0.7))
        for seed in (0, 1)
    ]
    (chart,) = parameter_charts(runs)
    assert [(s.name, s.x, s.y) for s in chart.series] == [
        ("rank 2", [200], [pytest.approx(0.65)]),
        ("rank 4", [400], [pytest.approx(0.85)]),
    ]
    spread = np.std([0.6, 0.7], ddof=1)
    assert (chart.series[0].low, chart.series[0].high) == (
        [pytest.approx(0.65 - spread)],
        [pytest.approx(0.65 + spread)],
    )
    assert chart.series[0].hover == [
        f"rank 2, η_QK 1e-3\n200 adapter parameters\naccuracy 0.6500 ± {spread:.4f} (2 seeds)"
    ]


def test_no_picture_of_parameters_where_all_train_equally_many(make):
    assert parameter_charts([make({"lr": lr}, 0.5) for lr in (1e-4, 1e-3)]) == []


def test_metric_by_the_one_label_that_varies(make):
    runs = [
        make({"rank": rank, "method": m, "seed": s}, rank / 10 + s / 100)
        for rank in (4, 2)
        for m in "ab"
        for s in (0, 1)
    ]
    (chart,) = label_charts(runs)
    assert [series.name for series in chart.series] == ["a", "b"]
    assert chart.series[0].x == [2, 4]
    assert chart.series[0].y == pytest.approx([0.205, 0.405])
    two = [make({"rank": rank, "alpha": alpha}, 0.5) for rank in (2, 4) for alpha in (2, 4)]
    assert label_charts(two) == []


def layer(plot, kind, field):
    parts = [part for part in plot.for_file()["layer"] if part["mark"]["type"] == kind]
    (found,) = [part for part in parts if part["encoding"]["y"]["field"] == field]
    return found


def test_a_definition_has_the_points_and_their_crosses():
    name = "<b>x</b> $_^ " + "long " * 12
    chart = Chart(
        "t", "λ", "y", [Series(name, [1, 2, 4], [3, 5, 4], crossed=[False, True, False])], log_x=True, x_ticks=[1, 2, 4]
    )
    plot = draw_chart(chart)
    (row,) = plot.spec["data"]["values"]
    assert (row["x"], row["y"], row["crossed"]) == ([1, 2, 4], [3, 5, 4], [False, True, False])
    crosses = [part for part in plot.spec["layer"] if part.get("transform") == [{"filter": "datum.crossed"}]]
    assert [part["mark"]["type"] for part in crosses] == ["point"]
    assert {part["encoding"]["x"]["scale"]["type"] for part in plot.spec["layer"]} == {"log"}
    assert row["series"].startswith("<b>x</b> $_^ long")
    assert "\n" in row["series"]


def test_ticks_that_would_overlap_are_left_out_and_one_is_kept():
    ratios = [0.1, 0.9, 1.0, 1.1, 100.0]
    chart = Chart("t", "λ", "y", [Series("x", ratios, ratios)], log_x=True, x_ticks=ratios)
    assert layer(draw_chart(chart), "line", "y")["encoding"]["x"]["axis"]["values"] == [0.1, 1.0, 100.0]


def test_a_fit_and_a_range_are_drawn():
    series = Series("law", [1.0, 10.0, 100.0], [2.0, 20.0, 200.0], fit=[1.0, 10.0, 100.0], line=False)
    chart = Chart("t", "x", "y", [series], log_x=True, log_y=True, y_range=(0.1, 1e4))
    plot = draw_chart(chart)
    fit, points = layer(plot, "line", "fit"), layer(plot, "point", "y")
    assert fit["encoding"]["y"]["scale"]["domain"] == points["encoding"]["y"]["scale"]["domain"] == [0.1, 1e4]
    (row,) = plot.spec["data"]["values"]
    assert (row["y"], row["fit"]) == (series.y, series.fit)
    assert fit["encoding"]["color"]["scale"] == points["encoding"]["color"]["scale"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (8e-7, 0.2, [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1]),
        (8e-9, 12, [1e-8, 1e-6, 1e-4, 0.01, 1]),
        (0.01, 2, [0.01, 0.03, 0.1, 0.3, 1]),
        (0.04, 0.7, [0.05, 0.1, 0.2, 0.5]),
        (1.5, 1.9, []),
    ],
)
def test_numbers_of_a_logarithmic_axis_are_round_and_few(low, high, ticks):
    assert log_ticks(low, high) == ticks


def test_what_a_logarithmic_axis_has_no_place_for_does_not_stretch_it():
    chart = Chart("t", "x", "y", [Series("a", [1.0, 2.0, 3.0], [0.0, float("nan"), 0.01])], log_y=True)
    low, high = layer(draw_chart(chart), "line", "y")["encoding"]["y"]["scale"]["domain"]
    assert 0 < low < 0.01 < high < 1


def test_a_file_has_what_the_page_has_but_for_pointing():
    bands = [Series(name, [1.0, 2.0], [3.0, 4.0], [2.0, 3.0], [4.0, 5.0]) for name in ("a", "b")]
    plot = draw_chart(Chart("t", "x", "y", bands))
    page, file = plot.for_page(), plot.for_file()
    assert file["data"] == page["data"]
    assert [part["mark"] for part in file["layer"]] == [part["mark"] for part in page["layer"][:-1]]
    assert page["layer"][-1]["encoding"]["tooltip"]["field"] == "details"
    assert "params" not in file
    assert not any("condition" in channel for part in file["layer"] for channel in part["encoding"].values())


def test_every_series_has_its_own_place_in_colour_and_symbol():
    series = [Series("a", [1.0], [1.0], line=False, place=3), Series("b", [2.0], [1.0], line=False)]
    points = layer(draw_chart(Chart("t", "x", "y", series)), "point", "y")["encoding"]
    assert points["color"]["scale"] == {"domain": ["a", "b"], "range": ["#CC79A7", "#D55E00"]}
    assert points["shape"]["scale"] == {"domain": ["a", "b"], "range": ["diamond", "square"]}
