"""What people do next with a model: adapters as other programs read them, and a merged model in ONNX."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from rounding import assert_near
from safetensors.torch import load_file
from tiny import DECODER_WORDS, save_tiny_bert, save_tiny_llama, tiny_llama_config, write_reviews
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
)
from transformers.pytorch_utils import Conv1D

import qvtune
from qvtune.training.config import make_config
from qvtune.training.inference import load_run
from qvtune.training.merging import merge_run
from qvtune.training.run import run

METHODS = ["lora", "rslora", "loraplus", "pissa", "olora", "eva", "dora"]
# vLLM's `--max-lora-rank` when nothing is said.
LARGEST_RANK = 16
FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def llama() -> nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_llama_config()).eval()


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    words = len(DECODER_WORDS)
    config = GPT2Config(
        vocab_size=words, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config).eval()


def ids() -> torch.Tensor:
    return torch.randint(3, len(DECODER_WORDS), (4, 9), generator=torch.Generator().manual_seed(1))


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids()).logits


def trained(build: Callable[[], nn.Module], method: str) -> nn.Module:
    """An adapted model as after training: all factors have moved."""
    base = build()
    extra = {"batches": [{"input_ids": ids()}] * 2} if method == "eva" else {}
    model = qvtune.adapt(base, roles="qv", method=method, rank=4, alpha=6, dropout=0.0, **extra).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def vllm_refuses(config: dict, weights: dict[str, torch.Tensor], model: nn.Module, largest: int) -> list[str]:
    """Why vLLM would not load an adapter, by what its `PEFTHelper` and the loading of weights check."""
    ranks = [config["r"], *(config["rank_pattern"] or {}).values()]
    start = config["init_lora_weights"]
    facts = {
        "rank": max(ranks) > largest,
        "bias": config["bias"] != "none" or config["lora_bias"],
        "dora": config["use_dora"],
        "modules_to_save": bool(set(config["modules_to_save"] or ()) - {"classifier", "score"}),
        "start": isinstance(start, str) and start.lower() not in ("gaussian", "eva", "orthogonal"),
        "other": any(config.get(name) for name in ("layer_replication", "alora_invocation_tokens", "use_qalora")),
        "weights": not all(FACTOR.fullmatch(name) for name in weights),
    }
    linear = {name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    facts["modules"] = not {found[1] for name in weights if (found := FACTOR.fullmatch(name))} <= linear
    return [name for name, is_so in facts.items() if is_so]


def llama_cpp_refuses(weights: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors at which `convert_lora_to_gguf.py` ends: neither a factor nor the weight of a norm."""
    return [name for name in weights if not FACTOR.fullmatch(name) and "norm" not in name]


def read_by_hand(model: nn.Module, weights: dict[str, torch.Tensor], scale: Callable[[int], float]) -> nn.Module:
    """Add scale B A to every weight of a plain model, as a program without PEFT does."""
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.items():
        module, factor = FACTOR.fullmatch(name).groups()
        pairs.setdefault(module, {})[factor] = tensor
    for name, pair in pairs.items():
        module = model.get_submodule(name)
        change = scale(len(pair["A"])) * (pair["B"] @ pair["A"])
        module.weight.data += change.T if isinstance(module, Conv1D) else change
    return model


@pytest.mark.parametrize("build", [llama, gpt2], ids=lambda build: build.__name__)
@pytest.mark.parametrize("method", METHODS)
def test_adapters_as_peft_vllm_and_llama_cpp_read_them(
    method: str, build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    model = trained(build, method)
    expected = logits(model)
    assert (expected - logits(build())).abs().max() > 0.05
    qvtune.save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    weights = load_file(tmp_path / "adapter_model.safetensors")

    assert_near(logits(PeftModel.from_pretrained(build(), tmp_path).eval()), expected)

    # Of a fused matrix the rank is that of both roles together; a changed start doubles it.
    rank = 4 * (2 if build is gpt2 else 1) * (2 if method in ("pissa", "olora") else 1)
    assert {len(weight) for name, weight in weights.items() if "lora_A" in name} == {rank} == {config["r"]}
    assert vllm_refuses(config, weights, build(), rank - 1)[0] == "rank"
    refused = vllm_refuses(config, weights, build(), LARGEST_RANK)
    assert refused == (["dora", "weights"] if method == "dora" else [])
    assert bool(llama_cpp_refuses(weights)) == (method == "dora")
    if method == "dora":
        return

    def vllm_scale(rank: int) -> float:
        return config["lora_alpha"] / (math.sqrt(rank) if config["use_rslora"] else rank)

    def llama_cpp_scale(rank: int) -> float:
        return config["lora_alpha"] / rank

    assert_near(logits(read_by_hand(build(), weights, vllm_scale)), expected)
    by_llama_cpp = logits(read_by_hand(build(), weights, llama_cpp_scale))
    if method == "rslora":
        assert (by_llama_cpp - expected).abs().max() > 0.01
    else:
        assert_near(by_llama_cpp, expected)


def test_rules_refuse_what_is_not_so() -> None:
    model = trained(llama, "lora")
    config = model.peft_config["default"].to_dict() | {"modules_to_save": ["embed_tokens"], "bias": "all"}
    weights = {"base_model.model.model.layers.0.self_attn.nothing.lora_A.weight": torch.ones(4, 32)}
    assert vllm_refuses(config, weights, llama(), LARGEST_RANK) == ["bias", "modules_to_save", "modules"]
    assert vllm_refuses(config | {"init_lora_weights": "pissa"}, {}, llama(), LARGEST_RANK)[2] == "start"


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_llama], ids=["bert", "llama"])
def test_a_merged_model_in_onnx_has_the_same_logits(
    save: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    write_reviews(tmp_path / "reviews.csv", 40)
    options = {"model": str(save(tmp_path / "base")), "data": str(tmp_path / "reviews.csv"), "max_steps": 4, "lr": 1e-2}
    run(make_config({**options, "precision": "fp32", "out": tmp_path / "run"}))
    merge_run(load_run(tmp_path / "run", device="cpu"), tmp_path / "merged")

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    model.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    inputs = dict(
        tokenizer(["a good film", "the plot was dull and the cast was bad"], padding=True, return_tensors="pt")
    )
    length = torch.export.Dim("length", max=model.config.max_position_embeddings)
    axes = {0: torch.export.Dim("rows"), 1: length}
    torch.onnx.export(
        model,
        kwargs=inputs,
        f=tmp_path / "merged.onnx",
        dynamo=True,
        input_names=list(inputs),
        output_names=["logits"],
        dynamic_shapes=dict.fromkeys(inputs, axes),
    )
    session = onnxruntime.InferenceSession(tmp_path / "merged.onnx")
    for texts in (["good"], ["a bad film", "bright music and a warm cast", "dull " * 30]):
        fed = dict(tokenizer(texts, padding=True, return_tensors="np"))
        (ours,) = session.run(["logits"], fed)
        with torch.no_grad():
            expected = model(**{name: torch.tensor(value) for name, value in fed.items()}).logits.numpy()
        assert np.abs(ours).max() > 1e-3
        assert np.abs(ours - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
