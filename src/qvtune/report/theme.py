"""Colours, symbols and fonts of all pictures, light and dark."""

from typing import Any

# Okabe and Ito, Color Universal Design (2008), without black and yellow, which vanish on one of the backgrounds.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Colour is never the only difference. The numbers of colours and of markers have no common divisor, so that many pairs
# differ.
STAR = "M0,-1.4L.34,-.45L1.33,-.43L.53,.17L.83,1.13L0,.56L-.83,1.13L-.53,.17L-1.33,-.43L-.34,-.45Z"
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", STAR)
DASHES = ([1, 0], [7, 4], [2, 3])
CROSS = "M-.7,-.7L.7,.7M-.7,.7L.7,-.7"
# From this fraction of viridis on, black is easier to read than white.
BRIGHT_FROM = 0.625
NEUTRAL = "#808080"
ACCENT = "#D55E00"


def colour(place: int) -> str:
    """Return the colour of a picture's series by its place."""
    return PALETTE[place % len(PALETTE)]


def marker(place: int) -> str:
    """Return the symbol of a picture's series by its place."""
    return MARKERS[place % len(MARKERS)]


def dash(place: int) -> list[int]:
    """Return the lengths of dashes and gaps for a picture's series by its place."""
    return DASHES[place // len(PALETTE) % len(DASHES)]


def ink(part: float) -> str:
    """Return the colour of text on this position of viridis, from 0 to 1."""
    return "#000000" if part > BRIGHT_FROM else "#ffffff"


def page_configs() -> dict[str, dict[str, Any]]:
    """Return Vega-Lite's configuration for pages: "light" and "dark"."""
    font = "system-ui, sans-serif"
    return {"light": _config("#1a1a1a", "#dcdcdc", font), "dark": _config("#e6e6e6", "#444444", font)}


def file_config() -> dict[str, Any]:
    """Return Vega-Lite's configuration for PNG and SVG."""
    return _config("#1a1a1a", "#dcdcdc", "sans-serif") | {"background": "white", "padding": 8}


def _config(text: str, grid: str, font: str) -> dict[str, Any]:
    letters = {"labelColor": text, "titleColor": text, "labelFontSize": 11, "titleFontSize": 12}
    return {
        "background": None,
        "font": font,
        "aria": False,
        "axis": {
            **letters, "titleFontWeight": "normal", "gridColor": grid, "domainColor": grid, "tickColor": grid,
            "labelOverlap": "greedy", "labelSeparation": 6, "titlePadding": 8,
        },
        "legend": {**letters, "titleFontWeight": "normal", "labelLimit": 0},
        "title": {"color": text, "anchor": "start", "fontSize": 13, "offset": 8},
        "text": {"color": text},
        "view": {"stroke": None},
    }  # fmt: skip
