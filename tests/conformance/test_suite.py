"""The suite as it is called: two processes, the command, its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qvtune
from qvtune.conformance.__main__ import main
from qvtune.conformance.checks import CHECKS
from qvtune.conformance.report import NOT_RUN, PASSED, Cell, Report
from qvtune.conformance.ways import WAYS, Way
from qvtune.errors import ConfigError


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the command prints of DDP and FSDP2 in the two processes that it starts."""
    words = [sys.executable, "-m", "qvtune.conformance", "--ways", "ddp,fsdp2", "--json"]
    folder = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_ddp_and_fsdp2_pass_in_two_processes(printed: dict) -> None:
    assert (printed["processes"], printed["device"]) == (2, "cpu")
    for way in ("DDP", "FSDP2"):
        found = {cell["check"]: cell["status"] for cell in printed["cells"] if cell["way"] == way}
        assert found == dict.fromkeys(CHECKS, PASSED)


def test_the_report_reads_back_and_prints_a_table(printed: dict) -> None:
    report = Report.from_dict(printed)
    assert report.failed == ()
    lines = str(report).splitlines()
    assert lines[1].split("|")[1:-1] == [text for text in lines[1].split("|")[1:-1] if text.strip()]
    assert len(lines) == 3 + len(CHECKS)
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_what_cannot_run_says_why_once() -> None:
    assert Way("mine", WAYS["ddp"].wrap, needs="no_such_package").obstacle() == "no_such_package is not installed"
    cells = tuple(Cell(check, "ZeRO 1", NOT_RUN, "deepspeed is not installed") for check in CHECKS)
    report = Report(cells, 2, "cpu", {"torch": torch.__version__})
    assert str(report).count("ZeRO 1: not run, deepspeed is not installed") == 1
    assert report.failed == ()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--ways", "dpp"], "unknown way 'dpp'. Did you mean 'ddp'?"),
        (["--ways", ","], "names no way"),
        (["--wrapper", "no_such_module:wrap"], "No module named 'no_such_module'"),
        (["--wrapper", "json:no_such_function"], "no attribute 'no_such_function'"),
        (["--wrapper", "json"], "Give MODULE:FUNCTION"),
        (["--wrapper", "sys:path"], "is no function"),
    ],
)
def test_bad_options_are_exit_code_2(words: list[str], text: str, capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 2
    assert text in capsys.readouterr().err


def test_a_failure_is_exit_code_1_with_a_wrapper_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    # As if launched, by one process.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29655"}.items():
        monkeypatch.setenv(name, value)
    assert main(["--wrapper", "wrong_wrappers:one_rate", "--device", "cpu"]) == 1
    shown = capsys.readouterr().out
    assert "| one_rate" in shown
    assert "one_rate: FAILED, rate of the head: " in shown
    assert "RANK" in os.environ


def test_the_python_call_checks_its_arguments() -> None:
    with pytest.raises(ConfigError, match="unknown way 'fsdp3'"):
        qvtune.check_conformance(["fsdp3"])
