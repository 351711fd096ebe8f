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
from qvtune.report.plot import Plot, javascript
from qvtune.report.theme import page_configs

# Up to this many classes, a matrix has lines of text as column headings; and up to this many, large cells.
FEW, MANY = 4, 20


@dataclass(frozen=True)
class Entry:
    """A cell of a table: its text and, for a number, the value to sort by."""

    text: str
    number: float | None = None

    @property
    def is_long(self) -> bool:
        """Whether it has line breaks."""
        return len(self.text) > 40


@dataclass(frozen=True)
class Table:
    """A table. If it is `sortable`, a click or Enter on a header sorts it.

    The first column of a `named` table stays visible while the others scroll. On a narrow screen the cells of a
    `stacked` table are below each other, with the names of their columns.
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
        """Its kinds, as CSS classes."""
        return " ".join(name for name in ("sortable", "named", "stacked") if getattr(self, name))

    @property
    def is_small(self) -> bool:
        """Whether other parts may be beside it."""
        return len(self.rows) <= 12 and not any(cell.is_long for row in self.rows for cell in row)

    @property
    def numeric(self) -> set[int]:
        """Indices of the columns that contain only numbers."""
        columns = range(len(self.columns))
        return {i for i in columns if self.rows and all(r[i].number is not None or not r[i].text for r in self.rows)}


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: `counts[i][j]` examples have label i and prediction j.

    Attributes:
        heading: the heading above it.
        labels: labels of rows and columns.
        counts: rows are labels.
        text: below the heading.
    """

    heading: str
    labels: list[str]
    counts: list[list[int]]
    text: str = ""

    @property
    def is_small(self) -> bool:
        """Whether other parts may be beside it."""
        return len(self.labels) <= MANY // 2

    @property
    def kind(self) -> str:
        """The form of its column headings and the size of its cells, by the number of classes."""
        return "few" if len(self.labels) <= FEW else "many" if len(self.labels) <= MANY else "many dense"

    def share(self, row: int, column: int) -> float:
        """Return a cell's fraction of the examples in its row."""
        return self.counts[row][column] / max(1, sum(self.counts[row]))


@dataclass(frozen=True)
class Pictures:
    """Pictures that belong together, and the text below them.

    Attributes:
        heading: the heading above them.
        plots: the pictures.
        text: the text below them.
        name: name of their files, PNG and SVG; if it is empty, no files are written.
        columns: number of pictures beside each other in the files.
    """

    heading: str
    plots: list[Plot]
    text: str = ""
    name: str = ""
    columns: int = 3


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
    def pictures(self) -> list[Pictures]:
        """The parts that are pictures."""
        return [part for part in self.parts if isinstance(part, Pictures)]


def render(page: Page) -> str:
    """Return the page as HTML, with one copy of the code that draws its pictures; all text is escaped."""
    return _template().render(
        page=page,
        style=_static("page.css"),
        script=_static("page.js"),
        configs=page_configs(),
        libraries=javascript() if page.pictures else "",
    )


def entry(value: Any) -> Entry:
    """Return a table's cell for any value: numbers sort as numbers; None and NaN give an empty cell."""
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
    # In a script element escapes are not decoded, and "</script>" or "<!--" would end it or hide its end.
    environment.filters["json"] = lambda value: Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c"))
    return environment.from_string(_static("page.html"))


def _static(name: str) -> str:
    return (resources.files("qvtune.report") / "static" / name).read_text(encoding="utf-8")
