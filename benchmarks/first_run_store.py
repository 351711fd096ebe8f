"""The results of `first_run.py`: a JSON file with a line per cell, to which several processes may add."""

import json
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]


class Cell(NamedTuple):
    """A method on a set with a seed; qvtune's cells also have a version."""

    set: str
    method: str
    seed: int
    version: str = ""


class Results:
    """Cells and what they gave, in a file that is read again before every change."""

    def __init__(self, path: Path, work: Path) -> None:
        """Name the file, and a folder for the lock that guards it."""
        self.path = path
        work.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(work / f"{path.name}.lock")
        self.cells: dict[Cell, dict[str, Any]] = {}
        self.latest = ""
        self._read()

    def has(self, cell: Cell) -> bool:
        """Whether the cell is there."""
        return cell in self.cells

    def add(self, cell: Cell, found: dict[str, Any]) -> None:
        """Keep what a cell gave; its version is then the latest."""
        with self._lock:
            self._read()
            self.cells[cell] = found
            self.latest = cell.version or self.latest
            self._write()

    def seeds(self, name: str, method: str, version: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Return what a method gave on a set, by seed."""
        for cell in sorted(self.cells):
            if (cell.set, cell.method, cell.version) == (name, method, version):
                yield cell.seed, self.cells[cell]

    def _read(self) -> None:
        if self.path.is_file():
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.latest = content["latest"]
            self.cells = {Cell(**row["cell"]): row["found"] for row in content["cells"]}

    def _write(self) -> None:
        rows = [json.dumps({"cell": cell._asdict(), "found": self.cells[cell]}) for cell in sorted(self.cells)]
        lines = ",\n".join(rows)
        content = f'{{"latest": {json.dumps(self.latest)}, "cells": [\n{lines}\n]}}\n'
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(content, encoding="utf-8")
        beside.replace(self.path)


@cache
def source_version() -> str:
    """Return the commit that last changed src/qvtune, with "-changed" where the folder differs from it."""
    commit = git("log", "-1", "--format=%h", "--", "src/qvtune").strip()
    return f"{commit}-changed" if git("status", "--porcelain", "--", "src/qvtune").strip() else commit


def git(*words: str) -> str:
    """Return what git prints in this repository."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
