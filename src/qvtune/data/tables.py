"""Read the user's own tables, CSV, TSV, JSONL, Parquet and CoNLL, with errors that say file and line."""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvtune.amounts import count
from qvtune.data.columns import check_separator
from qvtune.data.foreign import foreign_task
from qvtune.data.places import PlaceOfLines
from qvtune.errors import DataError

# A JSON escape such as \ud83d without its second half. Neither UTF-8 nor Arrow can hold it.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")

GZIP_SUFFIX, GZIP_START = ".gz", b"\x1f\x8b"
# Names of files that say nothing about their content.
NAMELESS = ("train", "training", "data", "dataset")


@dataclass(frozen=True)
class Table:
    """Rows of a source. `places[i]` names the place of row i ("mine.csv, line 7"); cells are text or JSON values."""

    source: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    places: Sequence[str]

    def column(self, name: str) -> list[Any]:
        """Return the cells of one column."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]


def read_table(path: Path, header: tuple[str, ...] | None = None) -> Table:
    """Read a table by its suffix.

    CSV is quoted as in RFC 4180, TSV has no quoting, JSONL has one object per line. Text is UTF-8, with or without
    a byte-order mark.

    Args:
        path: the file.
        header: names of the columns of a TSV file without a header row.

    Raises:
        DataError: for a file that is missing, empty, binary, not UTF-8, of another format, or malformed.
    """
    check_file(path)
    suffix = table_suffix(path)
    if suffix not in READERS:
        raise DataError(f"{path}: unknown format '{suffix}'. Use a file that ends in {', '.join(READERS)}.")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    table = READERS[suffix](path) if header is None else _read_tsv(path, header)
    if not table.rows:
        raise DataError(f"{path}: has {'only blank lines' if suffix == '.jsonl' else 'a header and no rows'}.")
    return table


def check_file(path: Path) -> None:
    """Check that a file exists.

    Raises:
        DataError: if it does not exist, or is not a file.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file. Check the path.")
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not a file. Name a file that ends in {', '.join(READERS)}.")
    if not path.is_file():
        raise DataError(f"{path}: is a pipe or a device, not a file. Write what it gives into a file.")


def check_table(data: str | Path) -> None:
    """Check that data whose name looks like a file, and like nothing else, exist as a file.

    Raises:
        DataError: if there is none.
    """
    if table_suffix(Path(data)) in READERS:
        check_file(Path(data))


def table_suffix(path: Path) -> str:
    """Return the suffix for a table's format: for mine.csv.gz it is .csv."""
    return (path.with_suffix("") if path.suffix.lower() == GZIP_SUFFIX else path).suffix.lower()


def table_name(path: Path) -> str:
    """Return the name of a table's file without its suffixes."""
    return (path.with_suffix("") if path.suffix.lower() == GZIP_SUFFIX else path).stem


def data_name(path: Path) -> str:
    """Return a name for the data of a file: the file's name, after the folder's name if many files have that name."""
    name, folder = table_name(path), path.absolute().parent.name
    return f"{folder}/{name}" if name.lower() in NAMELESS and folder else name


def read_text(path: Path) -> str:
    """Return a file as text without its byte-order mark; a gzip file is unpacked, whatever its name.

    Raises:
        DataError: if it does not exist, is binary, or is not UTF-8; the text gives the line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    if raw.startswith(GZIP_START):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: is compressed by gzip and damaged: {error}. Fetch it again.") from error
    if b"\0" in raw:
        line = raw.count(b"\n", 0, raw.index(b"\0")) + 1
        raise DataError(f"{path}, line {line}: holds a zero byte, so it is a binary file or UTF-16. Save it as UTF-8.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8. Save the file as UTF-8, for example "
            f"with: iconv -f latin1 -t utf-8 {path.name}"
        ) from error


def _read_csv(path: Path) -> Table:
    # StringIO ends lines only at \n and \r; str.splitlines would also cut a text at U+2028.
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    limit = csv.field_size_limit(sys.maxsize)
    try:
        return _from_cells(path, _csv_rows(path, reader))
    finally:
        csv.field_size_limit(limit)


def _csv_rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: {error}. Check the quotes of that row.") from error


def _read_tsv(path: Path, header: Sequence[str] | None = None) -> Table:
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    return _from_cells(path, ((n, line.split("\t")) for n, line in enumerate(lines, 1) if line), header)


def _from_cells(path: Path, numbered: Iterator[tuple[int, list[str]]], header: Sequence[str] | None = None) -> Table:
    if header is None:
        _, header = next(numbered, (0, None))
    if header is None:
        raise DataError(f"{path}: the file is empty.")
    columns = _checked_columns(path, [name.strip() for name in header])
    rows, places = [], []
    for number, cells in numbered:
        if len(cells) != len(columns):
            check_separator(str(path), columns)
            raise DataError(
                f"{path}, line {number}: has {len(cells)} fields where the header has {len(columns)} "
                f"({', '.join(columns)}). Quote or remove stray separators."
            )
        rows.append(tuple(cells))
        places.append(f"{path}, line {number}")
    return Table(str(path), columns, rows, places)


def _read_jsonl(path: Path) -> Table:
    columns: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = []
    places = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            found = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{place}: not JSON: {error.msg} at column {error.colno}. Write one object a line."
            ) from error
        except ValueError:  # int() refuses more than 4,300 digits
            raise DataError(f"{place}: holds a number of too many digits. Write it as a string.") from None
        except RecursionError:
            raise DataError(f"{place}: is nested too deeply. Write texts and labels as strings and numbers.") from None
        is_object = isinstance(found, dict) or (isinstance(found, list) and isinstance(next(iter(found), None), tuple))
        if not is_object or not found:
            raise DataError(
                f'{place}: holds no JSON object. Write one object a line, as {{"text": ..., "label": ...}}.'
            )
        record, names = dict(found), [pair[0] for pair in (found.items() if isinstance(found, dict) else found)]
        if not columns:
            columns = _checked_columns(path, names)
        if len(names) != len(record):
            raise DataError(f"{place}: a key occurs twice. Keep each key once.")
        if set(record) != set(columns):
            odd = sorted(set(record) ^ set(columns))
            other = foreign_task(columns, dict(zip(columns, rows[0], strict=True)).__getitem__)
            raise DataError(
                f"{place}: keys differ from the first row's ({', '.join(columns)}) in {', '.join(odd)}. Give every row "
                f"the same.{f' Besides, {other}' if other else ''}"
            )
        rows.append(tuple(record[name] for name in columns))
        places.append(place)
    return Table(str(path), columns, rows, places)


def _read_conll(path: Path) -> Table:
    """Read a word and its tag from the first and the last column of every line; blank lines end sentences."""
    rows: list[tuple[list[str], list[str]]] = []
    lines: list[list[int]] = []
    width, is_open = 0, False
    for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or fields[0] == "-DOCSTART-":
            is_open = False
            continue
        if line.startswith("#") and len(fields) != (width or 2):
            continue  # a comment, as in CoNLL-U
        width = width or len(fields)
        if len(fields) != width or width < 2 or not fields[0].strip() or not fields[-1].strip():
            empty = "" if all(field.strip() for field in fields) else ", one of them empty"
            raise DataError(
                f"{path}, line {number}: has {count(len(fields), 'field')}{empty}; every word needs a line with "
                f"{max(width, 2)}, the word first and its tag last."
            )
        if not is_open:
            rows.append(([], []))
            lines.append([])
            is_open = True
        rows[-1][0].append(fields[0])
        rows[-1][1].append(fields[-1])
        lines[-1].append(number)
    return Table(str(path), ("tokens", "tags"), list(rows), [PlaceOfLines(str(path), row) for row in lines])


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """Return a JSON object as a dictionary, or as its pairs if a key occurs twice."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else pairs


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from error
    columns = _checked_columns(path, table.column_names)
    rows = list(zip(*(_cells(path, name, table.column(name)) for name in columns), strict=True))
    return Table(str(path), columns, rows, [f"{path}, row {n}" for n in range(1, len(rows) + 1)])


def _cells(path: Path, name: str, column: Any) -> list[Any]:
    cells: list[Any] = []
    try:
        for cell in column:
            cells.append(cell.as_py())
    except UnicodeDecodeError:
        raise DataError(
            f"{path}, row {len(cells) + 1}: column '{name}' holds bytes that are not UTF-8. Correct or remove that row."
        ) from None
    return cells


# The reader of each kind of file, by its ending.
READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".conll": _read_conll,
    ".iob2": _read_conll,
}


def _checked_columns(path: Path, names: list[str]) -> tuple[str, ...]:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: column '{twice[0]}' occurs {names.count(twice[0])} times. Give each its own name.")
    odd = next((name for name in names if LONE_SURROGATE.search(name)), None)
    if odd is not None:
        raise DataError(f"{path}: the name {odd!a} of a column holds half a character. Correct it.")
    return tuple(names)
