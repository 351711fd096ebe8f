"""benchmarks/ablation.py: its ratios, its verdict, and its page of several processors, from numbers made up here."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qvtune.fast.parts import PARTS

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = [part.name for part in PARTS]


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "benchmarks"))
        spec = importlib.util.spec_from_file_location("ablation_benchmark", REPOSITORY / "benchmarks/ablation.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module


def measured(*steps: float, mib: int = 100) -> dict[str, Any]:
    return {"step_seconds": list(steps), "peak_memory": mib * 2**20}


def found(**others: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    alike = {name: [measured(1.0, 2.0)] for name in ("", *NAMES, "nothing", "everything")}
    return alike | {name.replace("_", " "): rounds for name, rounds in others.items()}


def test_every_part_is_left_out_once(ablation: ModuleType) -> None:
    rows = ablation.variants()
    assert list(rows) == ["", *NAMES, "nothing", "everything"]
    assert [rows[name] for name in NAMES] == [(name,) for name in NAMES]
    assert rows[""] == rows["nothing"] == ()
    assert list(rows["everything"]) == NAMES


def test_a_step_is_its_median_over_the_rounds(ablation: ModuleType) -> None:
    rounds = [measured(1.2, 9.0, mib=120), measured(9.0, 1.8, mib=90), measured(1.0, 2.0, mib=110)]
    summary = ablation.summarize(found(attention=rounds))
    # Medians 1.2 and 2.0: 1.6 s on average, where all parts take 1.5 s.
    assert summary["attention"]["step_ms"] == pytest.approx(1600)
    assert summary["attention"]["time_ratio"] == pytest.approx(1.6 / 1.5)
    assert summary["attention"]["memory_ratio"] == pytest.approx(1.1)
    assert summary[""]["time_ratio"] == 1


def test_parts_that_bring_too_little_on_every_case_are_named(ablation: ModuleType) -> None:
    slower, larger, unused = [measured(1.1, 2.1)], [measured(1.0, 2.0, mib=104)], [{"is_unused": True}]
    first = ablation.summarize(found(attention=slower, last_layer=unused, batches_by_length=[measured(1.02, 2.02)]))
    second = ablation.summarize(found(LoRA=larger, last_layer=unused))
    verdict = ablation.verdict({"sst2": first, "rte": second})
    idle = set(NAMES) - {"attention", "LoRA", "last layer"}
    assert {name for name in NAMES if name in verdict} == idle
    assert "| last layer | not used |  |" in ablation.table({"sst2": first})


def test_a_page_holds_every_kind_of_processor(
    ablation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ablation.about()
    rounds = found()
    for kind, mib in (("AMX", 100), ("AVX2", 100), ("AMX", 150)):
        monkeypatch.setattr(ablation, "about", lambda kind=kind: here | {"processor_kind": kind})
        rounds["attention"] = [measured(1.0, 2.0, mib=mib)]
        ablation.write(tmp_path / "ablation", {"sst2": ablation.summarize(rounds)}, {"sst2": rounds}, 1)
    machines = json.loads((tmp_path / "ablation.json").read_text(encoding="utf-8"))["machines"]
    assert set(machines) == {"AMX", "AVX2"}
    assert machines["AMX"]["summaries"]["sst2"]["attention"]["memory_ratio"] == 1.5
    page = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert page.count("\n## AMX\n") == page.count("\n## AVX2\n") == 1
    assert all(f"| {name} |" in page for name in NAMES)
