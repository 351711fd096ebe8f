"""`Report`: what the checks found, as a table."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

PASSED, FAILED, NOT_RUN = "passed", "FAILED", "not run"


@dataclass(frozen=True)
class Cell:
    """One check of one way.

    Attributes:
        check: the line of the table.
        way: its column.
        status: "passed", "FAILED" or "not run".
        detail: the numbers, or the reason.
    """

    check: str
    way: str
    status: str
    detail: str


@dataclass(frozen=True)
class Report:
    """The cells of every check and way.

    Attributes:
        cells: in the order of checks, within a way.
        processes: how many trained.
        device: their kind of device.
        versions: of the libraries that matter.
    """

    cells: tuple[Cell, ...]
    processes: int
    device: str
    versions: dict[str, str]

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells that failed."""
        return tuple(cell for cell in self.cells if cell.status == FAILED)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "Report":
        """Return what `to_dict` was made of."""
        return cls(**found | {"cells": tuple(Cell(**cell) for cell in found["cells"])})

    def __str__(self) -> str:
        from tabulate import tabulate

        ways = list(dict.fromkeys(cell.way for cell in self.cells))
        by_place = {(cell.check, cell.way): cell.status for cell in self.cells}
        checks = list(dict.fromkeys(cell.check for cell in self.cells))
        rows = [[check, *(by_place.get((check, way), "") for way in ways)] for check in checks]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [f"{self.processes} processes on {self.device}; {versions}"]
        lines += [tabulate(rows, ["check", *ways], tablefmt="github")]
        lines += [f"{way}: {status}, {what}" for way, status, what in _reasons(self.cells)]
        return "\n".join(lines)


def _reasons(cells: Iterable[Cell]) -> list[tuple[str, str, str]]:
    """Return way, status and reason of everything that did not pass; a reason of a whole way once."""
    found = (
        (cell.way, cell.status, cell.detail if cell.status == NOT_RUN else f"{cell.check}: {cell.detail}")
        for cell in cells
        if cell.status != PASSED
    )
    return list(dict.fromkeys(found))
