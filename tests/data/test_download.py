import io
import re
import socket
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from glue_folders import TASKS, examples
from rich.console import Console

from qvtune.data import download
from qvtune.data.download import check_task, fetch_task
from qvtune.data.glue import load_tests
from qvtune.errors import DataError
from qvtune.tasks.glue import load_tsv

QUIET = Console(file=io.StringIO())


@dataclass
class Served:
    """What the server sends: `pages` by path; `missing` bytes are announced and never sent; `asked` is its log."""

    url: str
    pages: dict[str, bytes] = field(default_factory=dict)
    missing: int = 0
    chunked: bool = False
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def served():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = self.path.removeprefix("/")
            serve.asked.append(path)
            body = serve.pages.get(path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            if serve.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                end = b"" if serve.missing else b"\r\n0\r\n\r\n"
                self.wfile.write(b"%x\r\n" % (len(body) + serve.missing) + body + end)
            else:
                self.send_header("Content-Length", str(len(body) + serve.missing))
                self.end_headers()
                self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serve = Served(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield serve
    server.shutdown()
    server.server_close()
    thread.join()


def zipped(files: dict[str, str], method=zipfile.ZIP_DEFLATED) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", method) as file:
        for name, text in files.items():
            file.writestr(name, text)
    return raw.getvalue()


def archive(name: str, prefix: str) -> bytes:
    return zipped({prefix + file: text for file, text in TASKS[name].files.items()})


ZIPPED = [name for name in TASKS if name != "mrpc"]


@pytest.mark.parametrize("name", ZIPPED)
def test_a_task_is_fetched_once(served, tmp_path, name):
    served.pages[download.ARCHIVES[name]] = archive(name, f"{TASKS[name].folder}/")
    folder = tmp_path / "new" / "glue"
    assert fetch_task(name, folder, served.url, QUIET) is True
    assert [path.name for path in folder.iterdir()] == [TASKS[name].folder]
    assert examples(load_tsv(name, folder).train) == TASKS[name].train
    assert fetch_task(name, folder, served.url, QUIET) is False
    assert served.asked == [download.ARCHIVES[name]]


def test_every_task_has_an_address():
    assert {*download.ARCHIVES, "mrpc"} == set(TASKS)
    assert "mrpc" not in download.ARCHIVES


def test_a_server_that_does_not_announce_the_size_is_fine(served, tmp_path):
    whole(served)
    served.chunked = True
    fetch_task("rte", tmp_path, served.url, QUIET)
    assert examples(load_tsv("rte", tmp_path).train) == TASKS["rte"].train


LAYOUTS = {
    "no folder": "",
    "folder of another name": "RTE-clean/",
    "deeper": "data/v2/RTE/",
}


@pytest.mark.parametrize("prefix", LAYOUTS.values(), ids=LAYOUTS)
def test_the_folder_inside_an_archive_may_have_any_name(served, tmp_path, prefix):
    served.pages[download.ARCHIVES["rte"]] = archive("rte", prefix)
    fetch_task("rte", tmp_path, served.url, QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["RTE"]
    assert examples(load_tsv("rte", tmp_path).train) == TASKS["rte"].train


def test_the_tables_nearest_the_top_are_taken(served, tmp_path):
    inner = {f"RTE/original/{file}": "old" for file in TASKS["rte"].files}
    files = inner | {f"RTE/{file}": text for file, text in TASKS["rte"].files.items()} | {"RTE/original/a.txt": "x"}
    served.pages[download.ARCHIVES["rte"]] = zipped(files)
    fetch_task("rte", tmp_path, served.url, QUIET)
    assert examples(load_tsv("rte", tmp_path).train) == TASKS["rte"].train


def test_an_archive_cannot_write_outside_its_folder(served, tmp_path):
    files = {f"RTE/{file}": text for file, text in TASKS["rte"].files.items()}
    outside = tmp_path / "absolute.txt"
    served.pages[download.ARCHIVES["rte"]] = zipped(files | {"../../../evil.txt": "x", str(outside): "x"})
    fetch_task("rte", tmp_path / "a" / "b", served.url, QUIET)
    assert not list(tmp_path.rglob("evil.txt"))
    assert not outside.exists()


def test_the_rows_are_counted_against_the_published_numbers(served, tmp_path):
    header = TASKS["wnli"].files["dev.tsv"].split("\n")[0]
    files = {**TASKS["wnli"].files, "dev.tsv": "\n".join([header, *(f"{i}\tA\tB\t{i % 2}" for i in range(71))])}
    served.pages[download.ARCHIVES["wnli"]] = zipped({f"WNLI/{file}": text for file, text in files.items()})
    for name in ("rte", "mnli", "cola"):
        served.pages[download.ARCHIVES[name]] = archive(name, f"{TASKS[name].folder}/")
    for name in ("rte", "mnli", "wnli", "cola"):
        fetch_task(name, tmp_path, served.url, QUIET)
    assert check_task("rte", tmp_path) == [
        "RTE/train.tsv: 2 rows, where 2,490 were published",
        "RTE/dev.tsv: 1 rows, where 277 were published",
        "RTE/test.tsv: 2 rows, where 3,000 were published",
    ]
    assert check_task("wnli", tmp_path)[1:] == [
        "WNLI/dev.tsv: 71 rows",
        "WNLI/test.tsv: 1 rows, where 146 were published",
    ]
    assert check_task("cola", tmp_path)[0] == "CoLA/train.tsv: 3 rows, where 8,551 were published"
    assert check_task("mnli", tmp_path) == [
        "MNLI/train.tsv: 3 rows, where 392,702 were published",
        "MNLI/dev_matched.tsv: 1 rows, where 9,815 were published",
        "MNLI/dev_mismatched.tsv: 1 rows, where 9,832 were published",
        "MNLI/test_matched.tsv: 1 rows, where 9,796 were published",
        "MNLI/test_mismatched.tsv: 1 rows, where 9,847 were published",
    ]


def test_a_fetched_task_that_lacks_a_file_is_refused_when_counted(served, tmp_path):
    files = {f"RTE/{file}": text for file, text in TASKS["rte"].files.items() if file != "test.tsv"}
    served.pages[download.ARCHIVES["rte"]] = zipped(files)
    fetch_task("rte", tmp_path, served.url, QUIET)
    with pytest.raises(DataError, match=r"test\.tsv: no such file"):
        check_task("rte", tmp_path)


MSR_HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
MSR_TRAIN = [
    '1\t11\t12\tHe said " yes .\tHe agreed .',
    "0\t13\t14\tIt fell\u2028 .\tIt \x85 rose .",
    "1\t15\t16\tOne .\tTwo .",
    "0\t16\t15\tThree .\tFour .",
]
MSR_TEST = ["1\t21\t22\tA\x85a .\tB .", '0\t23\t24\tC .\t" D .']


def serve_mrpc(served, newline="\n"):
    served.pages |= {
        download.MRPC_TRAIN: (newline.join([MSR_HEADER, *MSR_TRAIN]) + newline).encode(),
        download.MRPC_TEST: (newline.join([MSR_HEADER, *MSR_TEST]) + newline).encode(),
        download.MRPC_DEV_IDS: newline.join(["15\t16", "98\t99"]).encode(),
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_mrpc_is_put_together_from_its_three_files(served, tmp_path, newline):
    serve_mrpc(served, newline)
    assert fetch_task("mrpc", tmp_path, served.url, QUIET) is True
    assert [path.name for path in tmp_path.iterdir()] == ["MRPC"]
    data = load_tsv("mrpc", tmp_path)
    assert examples(data.train) == [
        (('He said " yes .', "He agreed ."), 1),
        (("It fell\u2028 .", "It \x85 rose ."), 0),
        (("Three .", "Four ."), 0),
    ]
    assert examples(data.evaluation["validation"]) == [(("One .", "Two ."), 1)]
    [(submission, indices, texts)] = load_tests("mrpc", tmp_path)
    assert (submission, indices) == ("MRPC.tsv", ["0", "1"])
    assert texts["text"][:] == ["A\x85a .", "C ."]
    assert texts["text_pair"][:] == ["B .", '" D .']
    assert (tmp_path / "MRPC" / "test.tsv").read_text(encoding="utf-8").split("\n")[1].startswith("0\t21\t22\t")
    assert check_task("mrpc", tmp_path)[0] == "MRPC/train.tsv: 3 rows, where 3,668 were published"
    assert fetch_task("mrpc", tmp_path, served.url, QUIET) is False


def whole_without_mrpc_ids(served):
    serve_mrpc(served)
    del served.pages[download.MRPC_DEV_IDS]


def page_for_mrpc(served):
    serve_mrpc(served)
    served.pages[download.MRPC_TRAIN] = b"<html>Sign in</html>"


def empty_mrpc(served):
    serve_mrpc(served)
    served.pages[download.MRPC_TEST] = b""


def whole(served):
    served.pages[download.ARCHIVES["rte"]] = archive("rte", "RTE/")


def cut_short(served):
    whole(served)
    served.missing = 1000


def cut_short_in_chunks(served):
    cut_short(served)
    served.chunked = True


def no_zip(served):
    served.pages[download.ARCHIVES["rte"]] = b"<html>Sign in</html>"


def half_a_zip(served):
    whole(served)
    served.pages[download.ARCHIVES["rte"]] = served.pages[download.ARCHIVES["rte"]][:200]


def damaged_zip(served):
    files = {f"RTE/{file}": text * 50 for file, text in TASKS["rte"].files.items()}
    raw = bytearray(zipped(files))
    raw[60:80] = b"\xff" * 20
    served.pages[download.ARCHIVES["rte"]] = bytes(raw)


def damaged_text(served):
    raw = zipped({f"RTE/{file}": text for file, text in TASKS["rte"].files.items()}, zipfile.ZIP_STORED)
    served.pages[download.ARCHIVES["rte"]] = raw.replace(b"Rain", b"Hail")


def other_zip(served):
    served.pages[download.ARCHIVES["rte"]] = zipped({"RTE/readme.txt": "x"})


FAILURES = {
    "404": ("rte", lambda served: None, r"RTE\.zip: the server answers 404 Not Found"),
    "404 of one file": ("mrpc", whole_without_mrpc_ids, r"mrpc_dev_ids\.tsv: the server answers 404"),
    "interrupted": ("rte", cut_short, r"RTE\.zip: [\d,]+ of 1,\d\d\d bytes arrived\. Give the command again"),
    "interrupted in chunks": ("rte", cut_short_in_chunks, r"RTE\.zip: cannot be reached: IncompleteRead"),
    "no zip": ("rte", no_zip, "the server sent no zip archive for RTE"),
    "half a zip": ("rte", half_a_zip, "the server sent no zip archive for RTE"),
    "damaged zip": ("rte", damaged_zip, "the server sent no zip archive for RTE, or a damaged one"),
    "checksum wrong": ("rte", damaged_text, "the server sent no zip archive for RTE, or a damaged one"),
    "zip of something else": ("rte", other_zip, r"the archive of RTE holds no train\.tsv"),
    "page for MRPC": ("mrpc", page_for_mrpc, r"paraphrase_train\.txt: is not the table of MRPC; it begins '<html>"),
    "empty MRPC": ("mrpc", empty_mrpc, r"paraphrase_test\.txt: is not the table of MRPC; it begins ''"),
}


@pytest.mark.parametrize(("name", "prepare", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_download_leaves_nothing_and_can_be_repeated(served, tmp_path, name, prepare, message):
    prepare(served)
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(DataError, match=message):
        fetch_task(name, tmp_path, served.url, QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    served.missing, served.chunked = 0, False
    serve_mrpc(served)
    whole(served)
    assert fetch_task(name, tmp_path, served.url, QUIET) is True


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_refused_connection_is_told_with_the_way_round(tmp_path):
    url = f"http://127.0.0.1:{closed_port()}"
    message = f"{url}/{download.ARCHIVES['rte']}: cannot be reached: [Errno"
    with pytest.raises(DataError, match=f"{re.escape(message)}.* Check the network, or give a mirror: --source URL"):
        fetch_task("rte", tmp_path, url, QUIET)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["mirror/glue", "localhost:80", "http://[", ""])
def test_a_source_that_is_no_address_is_refused(tmp_path, source):
    with pytest.raises(DataError, match="cannot be reached: "):
        fetch_task("rte", tmp_path, source, QUIET)
    assert not list(tmp_path.iterdir())


def test_an_unknown_task_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(DataError, match=r"unknown GLUE task 'RTE'\. Did you mean 'rte'"):
        fetch_task("RTE", tmp_path / "glue", "http://127.0.0.1:1", QUIET)
    assert not (tmp_path / "glue").exists()
