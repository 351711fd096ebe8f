"""`Page`: tables and pictures as one HTML file that needs nothing else."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment

from qvtune.report.labels import label_text
from qvtune.report.theme import layouts

# Up to so many classes the columns of a matrix are headed by lines of text, and up to so many its cells are large.
FEW, MANY = 4, 20


@dataclass(frozen=True)
class Entry:
    """A cell of a table: what is written, and the number to sort it by where it is one."""

    text: str
    number: float | None = None

    @property
    def is_long(self) -> bool:
        """Whether it is broken into lines."""
        return len(self.text) > 40


@dataclass(frozen=True)
class Table:
    """A table, which a click or Enter on a header sorts where it is `sortable`.

    The first column of a `named` one stays in sight while the others scroll. On a narrow screen the cells of a
    `stacked` one stand below each other, with the names of their columns.
    """

    caption: str
    columns: list[str]
    rows: list[list[Entry]]
    sortable: bool = False
    text: str = ""
    named: bool = False
    stacked: bool = False

    @property
    def kinds(self) -> str:
        """What it is, as CSS classes."""
        return " ".join(name for name in ("sortable", "named", "stacked") if getattr(self, name))

    @property
    def numeric(self) -> set[int]:
        """Places of the columns that hold numbers alone."""
        columns = range(len(self.columns))
        return {i for i in columns if self.rows and all(r[i].number is not None or not r[i].text for r in self.rows)}


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: `counts[i][j]` examples with label i were called j.

    Attributes:
        heading: above it.
        labels: of rows and columns.
        counts: rows are labels.
        text: below the heading.
    """

    heading: str
    labels: list[str]
    counts: list[list[int]]
    text: str = ""

    @property
    def kind(self) -> str:
        """How its columns are headed, and how large its cells are, by the number of classes."""
        return "few" if len(self.labels) <= FEW else "many" if len(self.labels) <= MANY else "many dense"

    def share(self, row: int, column: int) -> float:
        """Return what part of a row's examples a cell has."""
        return self.counts[row][column] / max(1, sum(self.counts[row]))


@dataclass(frozen=True)
class Plot:
    """One plotly figure.

    Attributes:
        title: heading above it; none where empty.
        alternative: what a reader hears who cannot see it.
        figure: `to_plotly_json` of the figure.
        width: what it needs at least, in rem; it scrolls where there is less.
    """

    title: str
    alternative: str
    figure: dict[str, Any]
    width: float = 0


@dataclass(frozen=True)
class Pictures:
    """Figures that belong together, and the text below them."""

    heading: str
    charts: list[Plot]
    text: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Details:
    """Long text that opens on demand."""

    summary: str
    content: str


@dataclass(frozen=True)
class Page:
    """A page: heading, sentences, warnings, notes, then tables, pictures and details in the order of `parts`."""

    title: str
    sentences: list[str]
    notes: list[str] = field(default_factory=list)
    parts: Sequence[Table | Matrix | Pictures | Details] = ()
    warnings: list[str] = field(default_factory=list)

    @property
    def has_charts(self) -> bool:
        """Whether plotly is needed."""
        return any(isinstance(part, Pictures) for part in self.parts)


def render(page: Page) -> str:
    """Return the page as HTML, with plotly.js in it once; all text is escaped."""
    from plotly.offline import get_plotlyjs

    return _template().render(
        page=page,
        style=_static("page.css"),
        script=_static("page.js"),
        layouts=layouts(),
        plotly=get_plotlyjs() if page.has_charts else "",
    )


def entry(value: Any) -> Entry:
    """Return a table's cell for any value: numbers to be sorted as numbers, nothing for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Entry("")
    if isinstance(value, bool):
        return Entry("yes" if value else "no")
    if isinstance(value, int):
        return Entry(f"{value:,}", float(value))
    if isinstance(value, float):
        return Entry(_number(value), value if math.isfinite(value) else None)
    return Entry(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _number(value: float) -> str:
    return label_text(value) if abs(value) < 1e-2 else f"{value:.5g}" if abs(value) < 1e4 else f"{value:,.0f}"


@cache
def _template() -> Any:
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    # Within a script element nothing is unescaped, and "</script>" or "<!--" would end it or hide its end.
    environment.filters["figure"] = lambda figure: Markup(json.dumps(_finite(figure)).replace("<", "\\u003c"))
    return environment.from_string(_static("page.html"))


def _finite(value: Any) -> Any:
    """Return a figure with null, which JSON has, in the place of NaN and infinity, which it has not."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _static(name: str) -> str:
    return (resources.files("qvtune.report") / "static" / name).read_text(encoding="utf-8")
