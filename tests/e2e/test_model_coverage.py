"""The coverage tool on a fast part of transformers' model types, one or more of each layout and modality."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "model_coverage.py"

VERIFIED = {
    "bert": ["separate"], "roberta": ["separate"], "distilbert": ["separate"], "mpnet": ["separate"],
    "xlm": ["separate"], "llama": ["separate"], "gemma3_text": ["separate"], "qwen3": ["separate"], "opt": ["separate"],
    "t5": ["separate"], "bart": ["separate"], "whisper": ["separate"], "wav2vec2": ["separate"], "vit": ["separate"],
    "clip": ["separate"], "esm": ["separate"], "longformer": ["separate"], "layoutlm": ["separate"],
    "gpt2": ["blocks"], "modernbert": ["blocks"], "phi3": ["blocks"], "mpt": ["blocks"], "gpt_neox": ["grouped"],
    "bloom": ["grouped"], "falcon": ["grouped"], "deberta": ["grouped"], "codegen": ["codegen"],
    "deepseek_v3": ["latent"], "xlnet": ["relative"], "siglip": ["multihead", "separate"],
}  # fmt: skip
# Where there is a gate.
NETWORKS = {
    **{name: ["separate"] for name in ("llama", "gemma3_text", "qwen3", "deepseek_v3")},
    **{name: ["gate_up"] for name in ("modernbert", "phi3")},
}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_coverage", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["model_coverage"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("model_type", "layouts"), VERIFIED.items(), ids=VERIFIED.keys())
def test_found_measured_and_trained(model_type: str, layouts: list[str], tool: ModuleType) -> None:
    covered = tool.cover(model_type)
    assert (covered.status, covered.wrong, covered.reason) == ("verified", "", "")
    assert covered.trained
    assert covered.layouts == layouts
    assert (covered.feed_forward, covered.network_reason) == ("measured", "")
    assert covered.network_layouts == NETWORKS.get(model_type, ["plain"])


@pytest.mark.parametrize(
    ("model_type", "kind", "reason"),
    [("mixtral", "experts", ""), ("vits", "unclear", "made of convolutions"), ("fnet", "refused", "")],
)
def test_a_feed_forward_that_is_not_found_says_why(model_type: str, kind: str, reason: str, tool: ModuleType) -> None:
    covered = tool.cover(model_type)
    assert covered.feed_forward == kind
    assert reason in covered.network_reason


@pytest.mark.parametrize(
    ("model_type", "status", "reason"),
    [
        ("mamba", "none", "no softmax over keys"),
        ("rwkv", "none", "no query and key product"),
        ("jetmoe", "unsupported", "a mixture of experts for its query"),
        ("resnet", "none", "no attention layer was found"),
    ],
)
def test_what_is_not_covered_says_why(model_type: str, status: str, reason: str, tool: ModuleType) -> None:
    covered = tool.cover(model_type)
    assert covered.status == status
    assert reason in covered.reason


def test_page(tool: ModuleType) -> None:
    results = [tool.Covered("a", "verified", 2, ["blocks"]), tool.Covered("b", "found", 2, ["blocks"], reason="odd")]
    results += [tool.Covered("c", "unsupported", reason="raw"), tool.Covered("d", "not built", reason="no size")]
    text = tool.page(results)
    assert "In **2 of 3** (66.7%)" in text
    assert "| blocks | 2 | 1 |" in text
    assert "- `b`: odd" in text
    results[0].feed_forward, results[0].network_layouts, results[1].feed_forward = "measured", ["gate_up"], "unclear"
    text = tool.page(results)
    assert "In **1 of 2** (50.0%) `--roles gud` finds it" in text
    assert "| gate_up | 1 | 1 |" in text
