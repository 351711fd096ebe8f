"""`Journal`: the measurements of a search, so that an interrupted search can go on."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qvtune.errors import RunError
from qvtune.files import writing


class Journal:
    """Stores every measurement by its name, in a file of JSON lines if there is one.

    Args:
        path: the file, which the first measurement creates; only memory is used when None.
        key: identifies the search. A file of another search is refused.

    Raises:
        RunError: if the file is of another search, or cannot be read or written.
    """

    def __init__(self, path: Path | None = None, key: str = "") -> None:
        self.path = path
        self._pieces: dict[str, Any] = {}
        self._first = {"search": key}
        if path is None or not path.exists():
            return
        with writing(path):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A line without its end was not finished when the process was killed.
        try:
            whole = [json.loads(line) for line in lines if line.endswith("\n")]
            first = whole[0]["search"] if whole else key
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: is damaged: {error}. Remove it, or give another --out.") from None
        if first != key:
            raise RunError(f"{path}: is of a search with another model, data or options. Give another --out.")
        if len(whole) < len(lines):
            with writing(path):
                path.write_text("".join(lines[:-1]), encoding="utf-8")
        self._pieces = {piece["name"]: piece["value"] for piece in whole[1:]}

    def measure(self, name: str, function: Callable[[], Any]) -> Any:
        """Return the stored result of `name`, or call `function` and store its result, which JSON can hold."""
        if name not in self._pieces:
            value = function()
            if self.path is not None:
                self._append({"name": name, "value": value})
            self._pieces[name] = value
        return self._pieces[name]

    def values(self) -> Iterator[Any]:
        """Return the result of every measurement."""
        return iter(self._pieces.values())

    def __contains__(self, name: str) -> bool:
        return name in self._pieces

    def _append(self, piece: dict[str, Any]) -> None:
        assert self.path is not None
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                if file.tell() == 0:
                    file.write(json.dumps(self._first) + "\n")
                file.write(json.dumps(piece) + "\n")
