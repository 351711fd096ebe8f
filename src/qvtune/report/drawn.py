"""`draw_run`: the curves of a run as files, for trackers."""

from collections.abc import Sequence
from typing import Any

from qvtune.report.curves import shown_charts
from qvtune.report.lines import draw_chart
from qvtune.report.plot import side_by_side, to_png


def draw_run(records: Sequence[dict[str, Any]], main_metric: str) -> dict[str, bytes]:
    """Return the charts of a run's page as PNG files, by their titles with dashes for spaces.

    Args:
        records: lines of `metrics.jsonl`.
        main_metric: name of the task's main metric.
    """
    charts = shown_charts(list(records), main_metric)
    return {chart.title.replace(" ", "-"): to_png(side_by_side([draw_chart(chart)], 1)) for chart in charts}
