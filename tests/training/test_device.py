"""Which device computes, and that nothing is left behind on another."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from qvtune.cli.main import main
from qvtune.device import DEVICES, choose_device, device_of, place
from qvtune.errors import ConfigError
from qvtune.fast.cpu.native.build import find_compiler
from qvtune.training.config import TrainConfig
from qvtune.training.inference import load_run

PRETEND = Path(__file__).resolve().parents[1] / "pretend"
here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


@pytest.mark.slow
@pytest.mark.skipif(find_compiler() is None, reason="no g++ to compile the device that tests/pretend is run on")
def test_every_command_on_a_device_that_is_not_the_cpu(tmp_path: Path) -> None:
    """tests/pretend: torch's own CPU kernels behind a device that refuses tensors of another one, as a GPU does."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist", str(PRETEND)],
        env=os.environ | {"QVTUNE_TESTS_PRETEND": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20000:]
    assert " passed" in done.stdout


def test_the_cpu_or_what_torch_finds() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type == here.type


def test_the_option_has_the_devices_that_there_are() -> None:
    assert get_args(TrainConfig.model_fields["device"].annotation) == DEVICES


def test_unknown_and_missing_devices_are_errors() -> None:
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        choose_device("gpu")
    missing = [name for name in ("cuda", "mps") if name != here.type]
    for name in missing:
        with pytest.raises(ConfigError, match=f"--device {name}: .*--device auto"):
            choose_device(name)


def test_a_missing_device_ends_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = next(name for name in ("mps", "cuda") if name != here.type)
    (tmp_path / "data.csv").write_text("text,label\na,x\nb,y\nc,x\nd,y\n")
    words = f"train --model pkg:minilm --data {tmp_path}/data.csv --device {missing} --out {tmp_path}/run"
    assert main(words.split()) == 2
    assert f"--device {missing}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="unknown device 'elsewhere'"):
        load_run(tmp_path, device="elsewhere")  # as evaluate and predict do


def test_a_device_does_not_change_which_run_it_is(tmp_path: Path) -> None:
    values = {"model": "m", "data": "d.csv", "out": tmp_path}
    both = [TrainConfig(**values, device=name).fingerprint() for name in ("auto", "cpu")]
    assert both[0] == both[1]


def test_models_that_others_place_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    meta = torch.device("meta")  # a device that every torch has
    spread = nn.Linear(2, 2)
    spread.hf_device_map = {"": 0}
    assert device_of(place(spread, meta)).type == "cpu"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert device_of(place(nn.Linear(2, 2), meta)).type == "cpu"
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    assert device_of(place(nn.Linear(2, 2), meta)) == meta
