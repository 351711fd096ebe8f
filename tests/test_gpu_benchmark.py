"""benchmarks/gpu.py, as far as it goes without a device: its measuring on the CPU, its tables, and its refusal."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tiny import save_tiny_bert, write_reviews

from qvtune.training.environment import describe_environment

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", REPOSITORY / "benchmarks/gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_without_a_device_it_says_so_and_writes_nothing(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu")])
    assert benchmark.main() == 2
    assert capsys.readouterr().err.startswith("error: no CUDA device here")
    assert list(tmp_path.iterdir()) == []


def test_all_ways_are_measured(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_bert(tmp_path / "bert")
    write_reviews(tmp_path / "reviews.csv", 120)
    monkeypatch.setattr(benchmark, "PRECISIONS", ("fp32",))
    models = {"tiny": (str(tmp_path / "bert"), ["query", "value"])}
    (rows,) = benchmark.measure_all(models, str(tmp_path / "reviews.csv"), 96, 2, end=0.0)
    assert {row["rounds"] for row in rows} == {1}  # the time for another is over
    assert [row["way"] for row in rows] == ["peft", "plain", "qvtune"]
    assert all(row["samples_per_second"] > 0 and row["peak_bytes"] is None for row in rows)
    lines = benchmark.speed_table(rows).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    cells = [[text.strip() for text in line.strip("|").split("|")] for line in lines[2:]]
    ratio = rows[2]["samples_per_second"] / rows[0]["samples_per_second"]
    assert cells[0][5] == "1.00"
    assert float(cells[2][5]) == pytest.approx(ratio, abs=0.006)


def test_a_report_of_pytest_is_read(benchmark: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_three.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "@pytest.mark.parametrize('x', ['a|b'])\n"
        "def test_bad(x): assert x == 'other', 'not <the> other'\n"
        "@pytest.mark.skip(reason='not here')\n"
        "def test_absent(): pass\n"
        "@pytest.fixture\n"
        "def broken(): raise ValueError('broken')\n"
        "def test_broken(broken): pass\n"
    )
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False, cwd=tmp_path).returncode == 1
    tests = benchmark.read_report(report)
    assert {test["name"].partition("[")[0]: test["result"] for test in tests} == {
        "test_good": "passed",
        "test_bad": "failed",
        "test_absent": "skipped",
        "test_broken": "failed",
    }
    lines = benchmark.tests_text(tests).splitlines()
    assert lines[0] == "1 passed, 2 failed, 1 skipped."
    assert len(lines) == 2 + 2 + 3
    assert any("a\\|b" in line and "&lt;the>" in line for line in lines)
    assert any("not here" in line for line in lines)


def test_the_page_has_the_device_and_both_tables(benchmark: ModuleType) -> None:
    about = describe_environment()
    about["accelerator"] = {"name": "Some GPU", "capability": "9.0", "memory_bytes": 2**36, "cuda": "13.0"}
    row = {
        "model": "tiny",
        "precision": "fp32",
        "samples_per_second": 10.0,
        "lowest": 9.0,
        "highest": 11.0,
        "rounds": 1,
    }
    numbers = {
        "about": about,
        "seconds": 90.0,
        "examples": 64,
        "tests": [{"name": "test_a", "result": "passed", "message": ""}],
        "speed": [row | {"way": way, "peak_bytes": 2**20} for way in benchmark.WAYS],
    }
    text = benchmark.page(numbers)
    for part in (
        "Some GPU",
        "64 GiB",
        "1.5 minutes",
        "1 passed, 0 failed, 0 skipped.",
        "| tiny | fp32 | qvtune | 10 |",
    ):
        assert part in text
