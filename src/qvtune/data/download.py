"""Fetch GLUE from the benchmark's server and check it against the published numbers of rows."""

import http.client
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from qvtune.data.glue import glue_task, load_sets, load_tests
from qvtune.data.tables import read_text
from qvtune.errors import DataError

SOURCE = "https://dl.fbaipublicfiles.com"

ARCHIVES = {
    "cola": "glue/data/CoLA.zip",
    "sst2": "glue/data/SST-2.zip",
    "stsb": "glue/data/STS-B.zip",
    "qqp": "glue/data/QQP-clean.zip",
    "mnli": "glue/data/MNLI.zip",
    "qnli": "glue/data/QNLIv2.zip",
    "rte": "glue/data/RTE.zip",
    "wnli": "glue/data/WNLI.zip",
}
# MRPC is assembled from Microsoft's two files and GLUE's list of the pairs in its development set.
MRPC_TRAIN = "senteval/senteval_data/msr_paraphrase_train.txt"
MRPC_TEST = "senteval/senteval_data/msr_paraphrase_test.txt"
MRPC_DEV_IDS = "glue/data/mrpc_dev_ids.tsv"


def fetch_task(name: str, folder: Path, source: str, console: Console) -> bool:
    """Fetch one task into `folder/TASK` unless that exists.

    Returns:
        Whether it was fetched.

    Raises:
        DataError: if the server cannot be reached or sends no archive; no partial download stays.
    """
    target = folder / glue_task(name).folder
    if target.is_dir():
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as scratch:
        staging = Path(scratch)
        if name == "mrpc":
            unpacked = _make_mrpc(staging, source, console)
        else:
            archive = _fetch(f"{source}/{ARCHIVES[name]}", staging / "archive.zip", console)
            unpacked = _unpack(archive, staging / "unpacked", glue_task(name).folder)
        unpacked.rename(target)
    return True


def check_task(name: str, folder: Path) -> list[str]:
    """Read every file of a task; return a line per file with its row count, and any difference from the published one.

    Raises:
        DataError: if a file is missing or malformed.
    """
    glue = glue_task(name)
    sets, _ = load_sets(name, folder)
    train, dev, test = glue.rows
    wanted_rows = zip(("train.tsv", *glue.dev), sets.values(), (train, *dev), strict=True)
    found = {file: (len(dataset), rows) for file, dataset, rows in wanted_rows}
    found |= {f: (len(texts), n) for f, (_, _, texts), n in zip(glue.test, load_tests(name, folder), test, strict=True)}
    return [
        f"{glue.folder}/{file}: {rows:,} rows" + ("" if rows == wanted else f", where {wanted:,} were published")
        for file, (rows, wanted) in found.items()
    ]


def _make_mrpc(staging: Path, source: str, console: Console) -> Path:
    """Write MRPC in the benchmark's layout: dev is the listed pairs of the training file."""
    files = {
        part: _fetch(f"{source}/{path}", staging / part, console)
        for part, path in (("train", MRPC_TRAIN), ("test", MRPC_TEST), ("ids", MRPC_DEV_IDS))
    }
    # str.splitlines would also cut a sentence at U+2028.
    split = {part: read_text(path).replace("\r\n", "\n").split("\n") for part, path in files.items()}
    lines = {part: [line for line in every if line] for part, every in split.items()}
    for part, path in (("train", MRPC_TRAIN), ("test", MRPC_TEST)):
        first = next(iter(lines[part]), "")
        if not first.endswith("#1 String\t#2 String"):
            raise DataError(f"{source}/{path}: is not the table of MRPC; it begins '{first[:40]}'.")
    dev_ids = {tuple(line.split("\t")) for line in lines["ids"]}
    header, *rows = lines["train"]
    folder = staging / "MRPC"
    folder.mkdir()
    in_dev = [tuple(row.split("\t")[1:3]) in dev_ids for row in rows]
    for part, wanted in (("train", False), ("dev", True)):
        chosen = [row for row, is_dev in zip(rows, in_dev, strict=True) if is_dev == wanted]
        (folder / f"{part}.tsv").write_text("\n".join([header, *chosen]) + "\n", encoding="utf-8")
    tests = [row.split("\t")[1:] for row in lines["test"][1:]]
    numbered = ["\t".join((str(number), *row)) for number, row in enumerate(tests)]
    columns = "\t".join(("index", "#1 ID", "#2 ID", "#1 String", "#2 String"))
    (folder / "test.tsv").write_text("\n".join([columns, *numbered]) + "\n", encoding="utf-8")
    return folder


def _fetch(url: str, target: Path, console: Console) -> Path:
    columns = ("[progress.description]{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with (
            urllib.request.urlopen(url, timeout=60) as answer,
            Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress,
        ):
            size = answer.headers.get("Content-Length")
            task = progress.add_task(url.rpartition("/")[2], total=int(size) if size else None)
            with open(target, "wb") as file:
                while block := answer.read(1 << 16):
                    file.write(block)
                    progress.advance(task, len(block))
    except urllib.error.HTTPError as error:
        raise DataError(f"{url}: the server answers {error.code} {error.reason}.") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"{url}: cannot be reached: {reason}. Check the network, or give a mirror: --source URL"
        ) from error
    if size and target.stat().st_size != int(size):
        raise DataError(f"{url}: {target.stat().st_size:,} of {int(size):,} bytes arrived. Give the command again.")
    return target


def _unpack(archive: Path, folder: Path, name: str) -> Path:
    try:
        with zipfile.ZipFile(archive) as file:
            # zipfile itself keeps names with ".." and absolute names inside the folder.
            file.extractall(folder)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"the server sent no zip archive for {name}, or a damaged one.") from error
    tables = sorted(folder.rglob("train.tsv"), key=lambda path: len(path.parts))
    if not tables:
        raise DataError(f"the archive of {name} holds no train.tsv.")
    return tables[0].parent
