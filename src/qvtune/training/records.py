"""The lines of `metrics.jsonl`, for whole and for killed runs, and the lines of `mistakes.jsonl`."""

import json
from typing import Any

from qvtune.errors import RunError
from qvtune.training.folder import RunFolder


def read_records(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl`, without a half-written last line of a killed run.

    Raises:
        RunError: if another line is damaged.
    """
    if not folder.metrics.is_file():
        return []
    records = []
    lines = folder.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["step"]
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise RunError(f"{folder.metrics}: line {number} is damaged. Train again in another --out.") from None
        records.append(record)
    return records


def read_mistakes(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the lines of `mistakes.jsonl`; none for a run of an earlier version without that file.

    Raises:
        RunError: if one is damaged.
    """
    if not folder.mistakes.is_file():
        return []
    lines = folder.mistakes.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        mistakes = [json.loads(line) for line in lines if line]
        if all(isinstance(mistake, dict) for mistake in mistakes):
            return mistakes
    except ValueError:
        pass
    raise RunError(f"{folder.mistakes}: is damaged. Remove it, and the page is made without the mistakes.")
