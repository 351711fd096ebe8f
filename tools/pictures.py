"""Shrink the pictures of docs/ to 256 colours, where none moves far: charts have few, so that nothing is seen of it.

python tools/pictures.py          # write those that become smaller
python tools/pictures.py --check  # say which are larger than LARGEST, and exit with 1
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image, ImageChops

REPOSITORY = Path(__file__).resolve().parents[1]
LARGEST = 150_000
COLOURS = 256
# How far a colour may move, of 255.
CLOSE = 24


def shrunk(picture: bytes) -> bytes:
    """Return a PNG with a palette, on white where it was transparent, or the same PNG if that is no smaller."""
    image = Image.open(io.BytesIO(picture))
    if image.mode == "P":
        return picture
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    plain = Image.alpha_composite(white, image).convert("RGB")
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    palette = plain.quantize(COLOURS, method=method, kmeans=3, dither=dither)
    moved = max(most for _, most in ImageChops.difference(plain, palette.convert("RGB")).getextrema())
    written = io.BytesIO()
    (palette if moved <= CLOSE else plain).save(written, "PNG", optimize=True)
    return min(picture, written.getvalue(), key=len)


def main() -> int:
    """Shrink every picture, or say which are too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    large = []
    for path in sorted((REPOSITORY / "docs").rglob("*.png")):
        picture = path.read_bytes()
        if not check and len(smaller := shrunk(picture)) < len(picture):
            path.write_bytes(smaller)
            print(f"{path.relative_to(REPOSITORY)}: {len(picture):,} bytes, now {len(smaller):,}")
        if path.stat().st_size > LARGEST:
            large.append(path)
    for path in large:
        print(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size:,} bytes, more than {LARGEST:,}.", file=sys.stderr)
    return int(bool(large))


if __name__ == "__main__":
    sys.exit(main())
