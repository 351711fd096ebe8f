"""`Chart`: the definition of a picture of lines and points over one axis."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from qvtune.report.labels import ALL_RUNS

# Up to this many points each has a marker; without it a line of one point would be invisible.
FEW_POINTS = 12
MOST_TICKS = 12


@dataclass(frozen=True)
class Series:
    """One line, or points where `line` is false.

    `low` and `high` are a band around a line, or error bars of points. `fit` is drawn as a dashed line through points.
    `crossed` marks points with a cross. `hover` is shown beside a point on the page; if it is empty, name and numbers
    are. `place` chooses colour and symbol; None means the place in the chart.
    """

    name: str
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    fit: list[float] = field(default_factory=list)
    crossed: list[bool] = field(default_factory=list)
    hover: list[str] = field(default_factory=list)
    line: bool = True
    width: float = 1.8
    place: int | None = None

    @property
    def has_marks(self) -> bool:
        """Whether every point has a marker."""
        return not self.line or len(self.x) <= FEW_POINTS


@dataclass(frozen=True)
class Chart:
    """A picture of series. `caption` says what it shows and what was left out.

    `y_range` is the lowest and highest value on the vertical axis; with None, all values fit.
    """

    title: str
    x_title: str
    y_title: str
    series: list[Series]
    log_x: bool = False
    log_y: bool = False
    x_ticks: list[float] = field(default_factory=list)
    y_range: tuple[float, float] | None = None
    caption: str = ""

    @property
    def has_names(self) -> bool:
        """Whether there are several series, which need names."""
        return [series.name for series in self.series] not in ([], [ALL_RUNS])

    @property
    def alternative(self) -> str:
        """The text for readers who cannot see the picture."""
        names = ", ".join(series.name for series in self.series)
        return f"Chart: {self.y_title} over {self.x_title}, for {names}. {self.caption}".strip()

    @property
    def xs(self) -> list[float]:
        """All values on the horizontal axis that can be drawn."""
        return drawable((x for series in self.series for x in series.x), log=self.log_x)

    @property
    def ys(self) -> list[float]:
        """All values on the vertical axis that can be drawn."""
        values = (y for s in self.series for y in (*s.y, *s.low, *s.high, *s.fit))
        return drawable(values, log=self.log_y)

    @property
    def readable_x_ticks(self) -> list[float]:
        """The ticks of the horizontal axis that have room for a number; a tick at 1 goes before its neighbours."""
        at = {tick: math.log(tick) if self.log_x else tick for tick in self.x_ticks}
        apart = (max(at.values()) - min(at.values())) / MOST_TICKS if at else 0
        kept: list[float] = []
        for tick in sorted(self.x_ticks, key=lambda tick: (tick != 1, tick)):
            if all(abs(at[tick] - at[other]) >= apart for other in kept):
                kept.append(tick)
        return sorted(kept)


def drawable(values: Iterable[float], *, log: bool) -> list[float]:
    """Return the values that fit on an axis: finite ones, and above 0 if it is logarithmic."""
    return [value for value in values if math.isfinite(value) and (value > 0 or not log)]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return round numbers from `low` to `high`: powers of ten, and 1, 2 and 5 times these if they are too few.

    The list is empty if even these give fewer than two: such an axis is almost linear, and any numbers fit.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = _between(low, high, [float(f"{factor}e{power}") for power in powers for factor in factors])
        if len(ticks) >= 4:
            return ticks[:: -(-len(ticks) // most)]
    return ticks if len(ticks) > 1 else []


def _between(low: float, high: float, values: Sequence[float]) -> list[float]:
    return [value for value in values if low <= value <= high]
