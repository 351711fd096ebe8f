"""Set the line numbers that pages of docs/ name, as in `src/qvtune/training/step.py:59` `Step`.

python tools/lines.py          # write them
python tools/lines.py --check  # say which are wrong, and exit with 1
"""

import argparse
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"`(src/[\w/]+\.py):(\w+)` `(\w+)`")


def line_of(path: Path, name: str) -> int:
    """Return the line at which a function or class begins.

    Raises:
        LookupError: if there is none, or several.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [number for number, line in enumerate(lines, 1) if re.match(rf"\s*(def|class) {name}\b", line)]
    if len(found) != 1:
        raise LookupError(f"{path}: {len(found)} functions or classes are called '{name}'.")
    return found[0]


def corrected(text: str) -> str:
    """Return a page with the numbers that its places have now."""
    return PLACE.sub(lambda place: f"`{place[1]}:{line_of(REPOSITORY / place[1], place[3])}` `{place[3]}`", text)


def main() -> int:
    """Correct every page, or say which are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    wrong = []
    for page in sorted((REPOSITORY / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if corrected(text) != text:
            wrong.append(page.name)
            if not check:
                page.write_text(corrected(text), encoding="utf-8")
    if check and wrong:
        print(f"{', '.join(wrong)}: line numbers have moved. Run python tools/lines.py.", file=sys.stderr)
    return int(check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
