"""Colours of all pictures, light and dark, and text that a picture shows as it stands."""

import html
from contextlib import AbstractContextManager
from typing import Any

from matplotlib import rc_context

# Okabe and Ito, Color Universal Design (2008), without black and yellow: each vanishes on one of the backgrounds.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# matplotlib's marker and plotly's of the same shape, and the same for lines: colour is never the only difference.
# Colours and markers have no common number, so that many pairs differ.
MARKERS = (
    ("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"), ("v", "triangle-down"), ("P", "cross"),
    ("*", "star"),
)  # fmt: skip
DASHES = (("-", "solid"), ("--", "dash"), (":", "dot"))
COLOUR_MAP = "viridis"
NEUTRAL = "#808080"
ACCENT = "#D55E00"


def colour(place: int) -> str:
    """Return the colour of a picture's series by its place."""
    return PALETTE[place % len(PALETTE)]


def translucent(hexadecimal: str, alpha: float) -> str:
    """Return "#0072B2" as "rgba(0, 114, 178, 0.2)"."""
    red, green, blue = (int(hexadecimal[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha})"


def plain(text: str) -> str:
    """Return text that plotly shows as it stands; it reads a subset of HTML."""
    return html.escape(text, quote=False)


def as_it_stands() -> AbstractContextManager[Any]:
    """Within it matplotlib takes no $ for mathematics, and leaves the text of an SVG as text."""
    return rc_context({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "qvtune"})


def layouts() -> dict[str, dict[str, Any]]:
    """Return what a plotly layout takes from the page's colours: "light" and "dark"."""
    return {"light": _layout("#1a1a1a", "#d8d8d8", "#ffffff"), "dark": _layout("#e6e6e6", "#444444", "#1e1e1e")}


def _layout(text: str, grid: str, box: str) -> dict[str, Any]:
    axis = {"gridcolor": grid, "linecolor": grid, "zerolinecolor": grid, "tickcolor": grid, "zeroline": False}
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": text, "family": "system-ui, sans-serif"},
        "hoverlabel": {"bgcolor": box, "bordercolor": grid, "font": {"color": text}, "align": "left"},
        "xaxis": axis,
        "yaxis": axis,
    }
