import csv
import gzip
import os
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from qvtune.data.tables import data_name, read_table, table_name
from qvtune.errors import DataError


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


LONG = "x" * 200_000
AWKWARD = [
    ("quote", 'He said "go", then left'),
    ("newlines", "first\nsecond\r\nthird"),
    ("line separators", "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"),
    ("spaces kept", "  two  "),
    ("empty", ""),
    ("tab", "a\tb"),
    ("not latin", "日本語 😀"),
]


@pytest.mark.parametrize("text", [text for _, text in AWKWARD], ids=[name for name, _ in AWKWARD])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("bom", ["", "\ufeff"], ids=["plain", "bom"])
def test_csv_gives_back_what_the_csv_module_wrote(tmp_path, text, newline, bom):
    path = tmp_path / "mine.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(bom)
        csv.writer(file, lineterminator=newline).writerows([["text", "label"], [text, "a"], ["second", "b"]])
    table = read_table(path)
    assert table.columns == ("text", "label")
    assert table.rows == [(text, "a"), ("second", "b")]


CSV = {
    "comma in quotes": ('text,label\n"a, b",1\n', [("a, b", "1")]),
    "doubled quote": ('text,label\n"say ""x""",1\n', [('say "x"', "1")]),
    "quote inside a field": ('text,label\n5" pipe,1\n', [('5" pipe', "1")]),
    "blank lines": ("\ntext,label\n\na,1\n\n", [("a", "1")]),
    "lines that end in CR alone": ("text,label\ra,1\rb,2\r", [("a", "1"), ("b", "2")]),
    "no last newline": ("text,label\na,1", [("a", "1")]),
    "spaces in the header": (" text , label \na,1\n", [("a", "1")]),
    "upper-case suffix": ("text,label\na,1\n", [("a", "1")]),
}


@pytest.mark.parametrize(("content", "rows"), CSV.values(), ids=CSV)
def test_csv_is_read_as_rfc_4180_says(tmp_path, content, rows):
    table = read_table(write(tmp_path, "mine.CSV", content))
    assert table.columns == ("text", "label")
    assert table.rows == rows
    assert table.column("label") == [row[1] for row in rows]


def test_csv_places_count_the_lines_of_the_file_not_its_rows(tmp_path):
    path = write(tmp_path, "mine.csv", 'text,label\n"two\nlines",1\n\nb,2\n')
    assert read_table(path).places == [f"{path}, line 2", f"{path}, line 5"]


def test_csv_fields_may_be_longer_than_the_modules_limit_which_stays(tmp_path):
    before = csv.field_size_limit()
    assert len(LONG) > before
    assert read_table(write(tmp_path, "mine.csv", f"text,label\n{LONG},1\n")).rows == [(LONG, "1")]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_tsv_has_no_quoting(tmp_path, newline):
    lines = ["text\tlabel", '"a, b\t1', 'say "x"\t2', "", "u\u2028v\x85w\t3", f"{LONG}\t4"]
    path = write(tmp_path, "mine.tsv", "\ufeff" + newline.join(lines) + newline)
    table = read_table(path)
    assert table.columns == ("text", "label")
    assert table.rows == [('"a, b', "1"), ('say "x"', "2"), ("u\u2028v\x85w", "3"), (LONG, "4")]
    assert table.places == [f"{path}, line {n}" for n in (2, 3, 5, 6)]


def test_jsonl_keeps_the_types_and_the_lines(tmp_path):
    lines = [
        '{"text": "a\\nb \\"c\\"", "label": 1}',
        "",
        '{"label": 2.5, "text": "u\u2028v\x85w"}',
        '{"text": null, "label": true}',
        '{"text": "\\ud83d\\ude00", "label": "x"}',
    ]
    path = write(tmp_path, "mine.jsonl", "\ufeff" + "\r\n".join(lines) + "\r\n")
    table = read_table(path)
    assert table.columns == ("text", "label")
    assert table.rows == [('a\nb "c"', 1), ("u\u2028v\x85w", 2.5), (None, True), ("😀", "x")]
    assert [type(label) for label in table.column("label")] == [int, float, bool, str]
    assert table.places == [f"{path}, line {n}" for n in (1, 3, 4, 5)]


def test_parquet_keeps_the_types_and_the_rows(tmp_path):
    path = tmp_path / "mine.parquet"
    columns = {"text": ['a "b"\n', None, "u\u2028v"], "label": [1, 2, None], "score": [0.5, 1.0, -2.0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    table = read_table(path)
    assert table.columns == ("text", "label", "score")
    assert table.rows == [('a "b"\n', 1, 0.5), (None, 2, 1.0), ("u\u2028v", None, -2.0)]
    assert table.places[2] == f"{path}, row 3"


def test_objects_in_cells_stay_objects(tmp_path):
    table = read_table(write(tmp_path, "mine.jsonl", '{"a": {"b": [{"c": 1}]}, "d": {}}\n'))
    assert table.rows == [({"b": [{"c": 1}]}, {})]


@pytest.mark.parametrize("name", ["mine.csv.gz", "mine.CSV.GZ", "mine.csv"])
def test_a_compressed_file_is_read_whatever_its_name(tmp_path, name):
    path = write(tmp_path, name, gzip.compress("text,label\ncafé,x\n".encode()))
    assert read_table(path).rows == [("café", "x")]
    assert table_name(path) == "mine"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("tickets/train.csv", "tickets/train"),
        ("tickets/Data.jsonl", "tickets/Data"),
        ("tickets/train.csv.gz", "tickets/train"),
        ("tickets/mine.csv", "mine"),
        ("/train.csv", "train"),
    ],
)
def test_data_are_called_after_the_folder_where_the_file_says_nothing(path, name):
    assert data_name(Path(path)) == name


@pytest.mark.parametrize("damage", [lambda b: b[:-12], lambda b: b[:12] + b"xxxx" + b[16:]], ids=["cut", "changed"])
def test_a_damaged_compressed_file_is_refused(tmp_path, damage):
    path = write(tmp_path, "mine.csv.gz", damage(gzip.compress(b"text,label\n" + b"a,x\n" * 50)))
    with pytest.raises(DataError, match=r"mine\.csv\.gz: is compressed by gzip and damaged"):
        read_table(path)


BAD = {
    "empty file": ("m.csv", "", "the file is empty"),
    "only a byte-order mark": ("m.csv", "\ufeff", "the file is empty"),
    "only blank lines": ("m.tsv", "\n\n", "the file is empty"),
    "only blank lines of jsonl": ("m.jsonl", " \n\n", "only blank lines"),
    "header only, csv": ("m.csv", "text,label\n", "a header and no rows"),
    "header only, tsv": ("m.tsv", "text\tlabel\n", "a header and no rows"),
    "binary": ("m.csv", b"text,label\na,1\n\x00\x01,2\n", "line 3: holds a zero byte"),
    "utf-16": ("m.csv", "text,label\na,1\n".encode("utf-16"), "line 1: holds a zero byte"),
    "latin-1": ("m.csv", "text,label\na,1\nb,2\ncafé,3\n".encode("latin-1"), "line 4: byte 0xe9 is not UTF-8"),
    "latin-1 on the first line": ("m.tsv", "é\tlabel\n".encode("latin-1"), "line 1: byte 0xe9 is not UTF-8"),
    "too many fields": ("m.csv", "text,label\na,1\nb, c,2\n", "line 3: has 3 fields where the header has 2 (text,"),
    "too few fields": ("m.csv", 'text,label\n"a\nb",1\nc\n', "line 4: has 1 fields where the header has 2"),
    "too many fields, tsv": ("m.tsv", "text\tlabel\n\na\tb\t1\n", "line 3: has 3 fields"),
    "quote never closed": ("m.csv", 'text,label\na,1\n"b,2\nc,3\n', "line 3: unexpected end of data. Check the quotes"),
    "text after a quote": ("m.csv", 'text,label\n"a" b,1\n', "line 2: ',' expected after '\"'"),
    "duplicate column": ("m.csv", "text,label,text\na,1,b\n", "column 'text' occurs 2 times"),
    "duplicate column after stripping": ("m.tsv", "text\t text\na\tb\n", "column 'text' occurs 2 times"),
    "unknown suffix": ("m.xlsx", "text,label\n", "unknown format '.xlsx'. Use a file that ends in .csv, .tsv"),
    "no suffix": ("m", "text,label\n", "unknown format ''"),
    "not json": ("m.jsonl", '{"text": "a"}\n{"text": }\n', "line 2: not JSON: Expecting value at column 10"),
    "json array": ("m.jsonl", '["a", 1]\n', "line 1: holds no JSON object"),
    "json array of pairs": ("m.jsonl", '[["text", "a"]]\n', "line 1: holds no JSON object"),
    "empty json array": ("m.jsonl", '[]\n{"text": "a"}\n', "line 1: holds no JSON object"),
    "empty json object": ("m.jsonl", '{}\n{"text": "a"}\n', "line 1: holds no JSON object"),
    "json number": ("m.jsonl", "12\n", "line 1: holds no JSON object"),
    "half a character in a name": (
        "m.jsonl",
        '{"a": 1, "b\\ud83d": 2}\n',
        "name 'b\\ud83d' of a column holds half a char",
    ),
    "json over two lines": ("m.jsonl", '{"text":\n"a"}\n', "line 1: not JSON"),
    "key twice in the first row": ("m.jsonl", '{"a": 1, "a": 2}\n', "'a' occurs 2 times"),
    "key twice later": ("m.jsonl", '{"a": 1}\n\n{"a": 1, "a": 2}\n', "line 3: a key occurs twice"),
    "other keys": (
        "m.jsonl",
        '{"a": 1, "b": 2}\n{"a": 1, "c": 2}\n',
        "line 2: keys differ from the first row's (a, b) in b, c.",
    ),
    "missing key": ("m.jsonl", '{"a": 1, "b": 2}\n{"a": 1}\n', "keys differ from the first row's (a, b) in b."),
    "no parquet": ("m.parquet", "text,label\na,1\n", "not a Parquet file"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_with_its_name(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}.*{re.escape(message)}"):
        read_table(path)


def test_a_truncated_parquet_file_is_refused(tmp_path):
    path = tmp_path / "mine.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 100}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a Parquet file"):
        read_table(path)


def test_an_empty_parquet_table_is_refused(tmp_path):
    path = tmp_path / "mine.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(DataError, match="no rows"):
        read_table(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe\.csv: is a pipe or a device"):
        read_table(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv: is a folder, not a file"):
        read_table(tmp_path / "folder.csv")
