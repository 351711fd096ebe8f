"""Fixtures of all tests: a cache of their own, and the real GLUE data where it is at hand."""

import gc
import os
import signal
from pathlib import Path

# Tiny models run faster on one thread, and a run is compared bit for bit with one in a process of its own.
os.environ["OMP_NUM_THREADS"] = "1"
# QVTUNE_ISA is for qvtune's own kernels. These keep torch and its libraries to the same, and are read when they start.
os.environ.update(
    {
        "native": {},
        "avx512": {
            "ATEN_CPU_CAPABILITY": "avx512",
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
            "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        },
        "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
        "sse4": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    }[os.environ.get("QVTUNE_ISA", "native")]
)

import jsonschema
import pytest
import torch
from filelock import FileLock

from qvtune.fast.cpu.native.library import load_kernels
from qvtune.report.plot import javascript

torch.set_num_threads(1)
# A suite that a script runs in the background is started to ignore SIGINT, and what it starts would too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Hide a GPU from all tests but those marked for it: the others compare numbers that the CPU gives."""
    if "gpu" not in config.getoption("markexpr"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


# Files that take minutes come first, so that no process waits for another at the end.
LONG = ("test_docs.py", "test_device.py", "test_resume.py", "test_sweep.py", "test_real_models.py", "test_first_run.py",
        "test_methods.py", "test_generated_inputs.py")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish() -> None:
    """Keep what all these imports made out of every later garbage collection; each run begins with two of them."""
    gc.collect()
    gc.freeze()


REPOSITORY = Path(__file__).resolve().parents[1]
# Folders of the cache that are filled once: the kernels, and the script of pages.
SHARED = ("kernels", "scripts")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, pytestconfig):
    """A cache that has what all tests and the processes that they start share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if hasattr(pytestconfig, "workerinput") else own) / "made-once"
    folder.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("QVTUNE_CACHE", str(folder))
        load_kernels()
        javascript()
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch, made_once):
    folder = tmp_path_factory.mktemp("qvtune-cache")
    for name in SHARED:
        if (made_once / name).is_dir():
            (folder / name).symlink_to(made_once / name)
    monkeypatch.setenv("QVTUNE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def read_configurations_fit_the_schema():
    """Hold every YAML file that a test writes and qvtune reads to the schema: what is read is valid."""
    from qvtune.training import config, schema

    load, parse, last = config.load_yaml, config.parse_options, {}

    def loading(text, loader):
        last["read"] = load(text, loader)
        return last["read"]

    def parsing(kind, values, places):
        parsed = parse(kind, values, places)
        if places:  # of values that come from the file
            # `jsonschema.validate` would check the schema too, which takes longer than a run and has its own test.
            jsonschema.Draft202012Validator(schema.config_schema()).validate(last["read"])
        return parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "load_yaml", loading)
        patch.setattr(config, "parse_options", parsing)
        yield


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """GLUE in the benchmark's layout: QVTUNE_GLUE_DIR, or shared/data/glue beside the repository; else skip."""
    named = os.environ.get("QVTUNE_GLUE_DIR")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data" / "glue"
    if not folder.is_dir():
        pytest.skip("no GLUE data here: set QVTUNE_GLUE_DIR to a folder with RTE/train.tsv and the like")
    return folder
