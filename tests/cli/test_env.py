"""`qvtune env`: what a bug report needs, and nothing personal."""

import getpass
import json
import os
import platform
import socket
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import qvtune
from qvtune.cli.main import main


@pytest.mark.parametrize("words", [["env"], ["env", "--json"]])
def test_it_names_versions_and_nothing_personal(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 0
    printed = capsys.readouterr().out
    for wanted in (platform.python_version(), torch.__version__, version("qvtune"), version("peft")):
        assert wanted in printed
    names = {str(Path.home()), os.getcwd(), socket.gethostname()} | ({getpass.getuser()} - {"root"})
    assert [name for name in names if len(name) > 2 and name in printed] == []


def test_json_is_what_python_returns(capsys: pytest.CaptureFixture) -> None:
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == qvtune.environment()


def test_instructions_are_those_of_the_processor() -> None:
    found = qvtune.environment()["instructions"]
    assert ("avx2" in found) == (platform.system() == "Linux" and torch.cpu._is_avx2_supported())
    assert ("avx512f" in found) == (
        platform.system() == "Linux" and torch.cpu.get_capabilities().get("avx512_f", False)
    )
