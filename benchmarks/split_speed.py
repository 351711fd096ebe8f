"""Training speed of a model whose fused projection is split, against the same model with its fused matrix.

    python benchmarks/split_speed.py --json

Forward and backward of one batch, the two models in turns, so that what else the machine does hits both. For "full",
both train query, key and value; for "lora", plain PEFT adapts the fused matrix with the rank that qvtune's adapters of
the three roles have together. The ratio is of the medians: 1.05 means that the split model takes 5 % longer.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    FalconConfig,
    FalconModel,
    GPT2Config,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXModel,
    ModernBertConfig,
    ModernBertModel,
)

from qvtune.adaptation import adapt
from qvtune.roles.find import find_attention

WIDTH, LAYERS, HEADS = 384, 6, 12
BATCH, LENGTH, RANK = 8, 128, 8
_COMMON = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "vocab_size": 1000}

MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "gpt2 (blocks, transposed)": (
        lambda: GPT2Model(GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, vocab_size=1000)),
        "c_attn",
    ),
    "modernbert (blocks)": (
        lambda: ModernBertModel(
            ModernBertConfig(**_COMMON, intermediate_size=1152, pad_token_id=0, cls_token_id=1, sep_token_id=2)
        ),
        "Wqkv",
    ),
    "gpt_neox (per head)": (lambda: GPTNeoXModel(GPTNeoXConfig(**_COMMON, intermediate_size=1536)), "query_key_value"),
    "falcon (grouped)": (
        lambda: FalconModel(FalconConfig(**_COMMON, new_decoder_architecture=True, num_kv_heads=4)),
        "query_key_value",
    ),
}


def build(method: str, make: Callable[[], nn.Module], fused: str) -> tuple[nn.Module, nn.Module]:
    """Return the model with its fused matrix, and the split one."""
    torch.manual_seed(0)
    whole = make()
    torch.manual_seed(0)
    apart = make()
    attention = find_attention(apart)
    if method == "lora":
        options = {"r": 3 * RANK, "lora_alpha": 3 * RANK, "lora_dropout": 0.0}
        whole = get_peft_model(whole, LoraConfig(target_modules=[fused], **options))
        return whole, adapt(apart, roles="qkv", rank=RANK, dropout=0.0, head=[], attention=attention)
    for name, parameter in whole.named_parameters():
        parameter.requires_grad_(f".{fused}." in name)
    return whole, adapt(apart, roles="qkv", method="full", head=[], attention=attention)


def step_seconds(model: nn.Module, ids: torch.Tensor) -> float:
    """Return the seconds of one forward and backward pass."""
    start = time.perf_counter()
    model(ids)[0].pow(2).mean().backward()
    return time.perf_counter() - start


def main() -> None:
    """Measure every model and method, and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="Steps of each model.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    ids = torch.randint(3, 1000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    results = []
    for name, (make, fused) in MODELS.items():
        for method in ("lora", "full"):
            models = build(method, make, fused)
            seconds: tuple[list[float], list[float]] = ([], [])
            for repeat in range(args.repeats + 2):
                for model, times in zip(models, seconds, strict=True):
                    taken = step_seconds(model, ids)
                    if repeat >= 2:  # the first passes allocate
                        times.append(taken)
            whole, apart = (statistics.median(times) for times in seconds)
            ratios = sorted(b / a for a, b in zip(*seconds, strict=True))
            results.append(
                {
                    "model": name,
                    "method": method,
                    "fused_ms": round(1000 * whole, 1),
                    "split_ms": round(1000 * apart, 1),
                    "ratio": round(apart / whole, 3),
                    "quartiles": [round(ratios[len(ratios) // 4], 3), round(ratios[3 * len(ratios) // 4], 3)],
                }
            )
    if args.json:
        print(
            json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "results": results}, indent=2)
        )
        return
    for result in results:
        print("{model}, {method}: fused {fused_ms} ms, split {split_ms} ms, ratio {ratio} {quartiles}".format(**result))


if __name__ == "__main__":
    main()
