"""`Plot`: one picture in Vega-Lite; JavaScript draws it on a page, vl-convert in PNG and SVG files."""

import hashlib
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qvtune.cache import cached_file
from qvtune.files import write_bytes
from qvtune.report.theme import file_config

# Name of the layer that shows what is under the pointer; files leave it out.
HOVER = "hover"
# Parameter of a picture: the room for the names below it, in pixels.
ROOM = "room"
FILE_WIDTH = 310
TITLE_WIDTH = 48
# Pixels of a PNG per unit of the picture.
SCALE = 1.5
# What the script of a page gives to the page.
EXPORT = "window.vegaEmbed = vegaEmbed;"


@dataclass(frozen=True)
class Plot:
    """One picture.

    Attributes:
        title: heading above it; none if empty.
        alternative: the text for readers who cannot see it.
        spec: its definition in Vega-Lite, without a size, and with all text and numbers in its data.
        height: height between the axes, in pixels.
        width: minimum width on a page, in rem; with less room it scrolls.
        file_width: width between the axes in a file, in pixels.
    """

    title: str
    alternative: str
    spec: dict[str, Any]
    height: int = 250
    width: float = 0
    file_width: int = FILE_WIDTH

    def for_page(self) -> dict[str, Any]:
        """Return the definition for a page, as wide as the room there."""
        return _plain({**self.spec, "width": "container", "height": self.height})

    def for_file(self) -> dict[str, Any]:
        """Return the definition for a file, without interaction."""
        layers = []
        for layer in self.spec["layer"]:
            if layer.get("name") != HOVER:
                channels = {c: of for c, of in layer["encoding"].items() if "condition" not in of}
                # If layers in panels beside each other had the same name, both would get the data of one.
                layers.append({name: of for name, of in layer.items() if name != "name"} | {"encoding": channels})
        size: dict[str, Any] = {"width": self.file_width, "height": self.height}
        if self.title:
            size["title"] = {"text": textwrap.wrap(self.title, TITLE_WIDTH)}
        return _plain({name: of for name, of in self.spec.items() if name != "params"} | {"layer": layers} | size)


def to_spec(picture: Any) -> dict[str, Any]:
    """Return an Altair picture as plain values, without its schema's address and its own configuration.

    It is not checked against Vega-Lite's schema, which would take longer than to draw it; tests do that.
    """
    plain = picture.to_dict(validate=False)
    return {name: part for name, part in plain.items() if name not in ("$schema", "config")}


def side_by_side(plots: Sequence[Plot], columns: int) -> dict[str, Any]:
    """Return plots as one picture for a file, with `columns` plots in a row."""
    own = dict.fromkeys(("color", "shape", "strokeDash", "strokeWidth"), "independent")
    return {
        "params": [{"name": ROOM, "value": FILE_WIDTH}],
        "concat": [plot.for_file() for plot in plots],
        "columns": columns,
        "spacing": 30,
        "resolve": {"scale": own},
    }


def save_plots(stem: Path, plots: Sequence[Plot], columns: int) -> list[Path]:
    """Write plots as STEM.png and STEM.svg, and return the paths."""
    svg = _to_svg(side_by_side(plots, columns))
    files = {"png": _as_png(svg), "svg": svg.encode()}
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in files]
    for path, content in zip(paths, files.values(), strict=True):
        write_bytes(path, content)
    return paths


def to_png(spec: dict[str, Any]) -> bytes:
    """Return a picture in Vega-Lite as a PNG file."""
    return _as_png(_to_svg(spec))


def _to_svg(spec: dict[str, Any]) -> str:
    import vl_convert

    # Nothing in a picture has an address; since none is allowed, nothing can be fetched.
    return _numbered(
        vl_convert.vegalite_to_svg(spec, vl_version=_version(), config=file_config(), allowed_base_urls=[])
    )


def _as_png(svg: str) -> bytes:
    import vl_convert

    return vl_convert.svg_to_png(svg, scale=SCALE)


def _numbered(svg: str) -> str:
    """Return an SVG whose parts are numbered from 0: Vega keeps counting, so equal pictures would be unequal files."""
    known: dict[str, str] = {}
    of = re.compile(r'((?:id="|url\(#)(?:clip|gradient_))(\d+)')
    return of.sub(lambda found: found[1] + known.setdefault(found[2], str(len(known))), svg)


@cache
def javascript() -> str:
    """Return the script that draws pictures on a page: Vega, Vega-Lite and Vega-Embed; it fetches nothing.

    To bundle it takes a second, so the cache keeps it.
    """

    def write(folder: Path) -> Path:
        path = folder / "script"
        path.write_text(_bundle(), encoding="utf-8")
        return path

    key = hashlib.sha256(f"{EXPORT} {_version()} {version('vl-convert-python')}".encode()).hexdigest()
    kept = cached_file("scripts", key, ".js", write)
    return _bundle() if kept is None else kept.read_text(encoding="utf-8")


def _bundle() -> str:
    import vl_convert

    return vl_convert.javascript_bundle(EXPORT, vl_version=_version())


def _version() -> str:
    """Return the version of Vega-Lite that Altair writes, in vl-convert's form."""
    from altair import SCHEMA_VERSION

    return ".".join(SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def _plain(value: Any) -> Any:
    """Return a picture with null instead of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
