"""Runs in folders as rows of a table: find, filter, sort and compare them."""

import json
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvtune.errors import ConfigError, RunError, nearest
from qvtune.lab.outcome import Outcome, read_outcome
from qvtune.lab.store import Store
from qvtune.report.labels import RATES, is_number
from qvtune.training.checkpoint import Checkpoints
from qvtune.training.config import TrainConfig
from qvtune.training.folder import RunFolder

Row = dict[str, Any]

COLUMNS = ("path", "task", "model", "method", "roles", "lr", "lr_ratio", "seed", "metric", "status", "seconds")
# The first line of `TrainConfig.to_yaml`; a config.yaml from another program is not a run.
OURS = "# qvtune train"
DAMAGED = "damaged"
NOT_COMPARED = {"path", "run", "out", "reason", "fingerprint"}

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Filter:
    """A condition on a column: `sign` is "=", or one of `OPERATORS` for numbers."""

    column: str
    sign: str
    value: str

    def holds(self, row: Row) -> bool:
        """Whether a row fulfils it. A row without a value only fulfils "column=", for an empty value."""
        have = row.get(self.column)
        if have is None:
            return self.sign == "=" and self.value == ""
        number = _number(self.value)
        if number is not None and is_number(have):
            return math.isclose(have, number, rel_tol=1e-9) if self.sign == "=" else OPERATORS[self.sign](have, number)
        return self.sign == "=" and plain_text(have) == self.value


def list_runs(paths: Sequence[str | Path]) -> list[Row]:
    """Return a row per run in or below `paths`, sorted by path; runs of a store keep the store's order.

    A row has every option of the run's configuration, its metrics by name, its labels, and `path`, `task`, `metric`,
    `metric_name`, `status`, `learned`, `reason`, `seconds`, `steps`, `parameters`. `lr_ratio` is λ even if `value_lr`
    was set.

    Raises:
        RunError: if a path does not exist or is a file, or a store's manifest is damaged.
    """
    rows: dict[Path, Row] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise RunError(f"{path}: {what}. Give a folder of runs.")
        for row in _below(path):
            rows.setdefault(Path(row["path"]).absolute(), row)
    return list(rows.values())


def find_row(rows: Sequence[Row], name: str) -> Row:
    """Return the run with this path or name.

    Raises:
        RunError: if there is no such run, or several.
    """
    if Path(name).is_dir():
        found = list_runs([Path(name)])
        if len(found) != 1:
            raise RunError(f"{name}: holds {len(found)} runs. Give the folder of one run.")
        return found[0]
    found = [row for row in rows if row["run"] == name or row["path"] == name]
    found = found or [row for row in rows if row["run"].startswith(name)]
    if len(found) != 1:
        many = f"means {len(found)} runs" if found else "is no run folder, and no name of a run below the given paths"
        raise RunError(f"{name}: {many}. {nearest(name, [row['run'] for row in rows]).strip()}".rstrip())
    return found[0]


def parse_filter(text: str, rows: Sequence[Row]) -> Filter:
    """Read "lr>=1e-4" or "task=rte".

    Raises:
        ConfigError: if it has neither form, no row has the column, or a number is needed but missing.
    """
    match = re.fullmatch(r"\s*([^<>=\s]+)\s*(>=|<=|=|>|<)\s*(.*?)\s*", text)
    if match is None:
        raise ConfigError(f"--filter is '{text}'; write COLUMN=VALUE, or with >, <, >= or <= for numbers.")
    wanted = Filter(*match.groups())
    column = known_column(wanted.column, rows, "--filter")
    if wanted.sign != "=" and _number(wanted.value) is None:
        raise ConfigError(f"--filter is '{text}'; '{wanted.value}' is no number. Text is compared by = alone.")
    return Filter(column, wanted.sign, wanted.value)


def known_column(name: str, rows: Sequence[Row], option: str) -> str:
    """Return the column called `name`; - may stand for _.

    Raises:
        ConfigError: if no row has it and it is not an option of a run; the text suggests the nearest name.
    """
    known = {*COLUMNS, *TrainConfig.model_fields, *(column for row in rows for column in row)}
    plain = name.removeprefix("--").replace("-", "_")
    if plain not in known:
        raise ConfigError(f"{option}: unknown column '{name}'.{nearest(plain, sorted(known))}")
    return plain


def sort_rows(rows: Iterable[Row], column: str, *, descending: bool = False) -> list[Row]:
    """Return the rows sorted by a column: numbers, then text; rows without a value are last in both directions."""
    rows = list(rows)
    numbers = [row for row in rows if is_number(row.get(column))]
    texts = [row for row in rows if row.get(column) is not None and not is_number(row[column])]
    rest = [row for row in rows if row.get(column) is None]
    numbers.sort(key=lambda row: row[column], reverse=descending)
    texts.sort(key=lambda row: plain_text(row[column]), reverse=descending)
    return [*numbers, *texts, *rest]


def compare_rows(rows: Sequence[Row]) -> list[Row]:
    """Return a row per option or metric that differs between runs: its name as `what`, its value by path of the run."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in NOT_COMPARED]
    return [
        {"what": name} | {row["path"]: row.get(name) for row in rows}
        for name in names
        if len({json.dumps(row.get(name), default=str) for row in rows}) > 1
    ]


def plain_text(value: Any) -> str:
    """Return a value in the form that filters and tables use."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return ",".join(map(plain_text, value)) if isinstance(value, list) else str(value)


def _below(path: Path) -> Iterable[Row]:
    for place, folders, files in os.walk(path):
        folders.sort()
        here = Path(place)
        if Store(here).is_store:
            store = Store(here)
            given = store.read()["given"]
            folders.clear()
            for name, labels in store.read()["labels"].items():
                yield _row(store.run_folder(name), labels, given)
        elif "config.yaml" in files and _is_ours(here / "config.yaml"):
            folders.clear()
            yield _row(RunFolder(here), {}, {})


def _is_ours(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(len(OURS)) == OURS


def _row(folder: RunFolder, labels: Mapping[str, Any], given: Mapping[str, Any]) -> Row:
    row: Row = {"path": str(folder.path), "run": folder.path.name}
    try:
        config = folder.read_config().model_dump(mode="json") if folder.is_run else {}
        outcome = read_outcome(folder, dict(labels))
    except (RunError, ConfigError) as error:
        return row | dict(given) | dict(labels) | {"status": DAMAGED, "reason": str(error)}
    row |= (config or _unstarted(given)) | _results(outcome) | dict(labels)
    if row.get("value_lr") and row.get("lr"):
        row["lr_ratio"] = row["value_lr"] / row["lr"]
    return row


def _unstarted(given: Mapping[str, Any]) -> Row:
    """Return the options of a run that has no configuration yet; the rates' defaults depend on the method."""
    fields = TrainConfig.model_fields.items()
    return {name: f.default for name, f in fields if not f.is_required() and name not in RATES} | dict(given)


def _results(outcome: Outcome) -> Row:
    result = outcome.result
    results = {
        "task": result.get("task"),
        "metric": outcome.metric,
        "metric_name": result.get("main_metric"),
        "status": outcome.status,
        "learned": outcome.learned,
        "reason": outcome.reason,
        "seconds": result.get("seconds"),
        "steps": result["steps"] if "steps" in result else _saved_steps(outcome.folder),
        "parameters": result.get("trainable_parameters", {}).get("total"),
        "peak_memory_bytes": result.get("peak_memory_bytes"),
    }
    return {**result.get("metrics", {}), **results}


def _saved_steps(folder: RunFolder) -> int | None:
    """Return the step from which an unfinished run would go on."""
    checkpoints = Checkpoints(folder.checkpoints).all()
    return checkpoints[0].step if checkpoints else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
