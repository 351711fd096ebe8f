"""`METHODS`: every fine-tuning method. A new one of PEFT's is one more entry here, with a test of what it does.

Default rates are those of the papers for small models where they state any, else LoRA's; none of them was tuned here.
"""

from functools import partial
from typing import Any

from qvtune.methods.configs import adalora, ia3, lora, vera
from qvtune.methods.method import Method

_FACTORS: dict[str, Any] = {"rank": 8, "alpha": 8.0, "dropout": 0.1, "b_lr_ratio": 1.0}
_LORA: dict[str, Any] = {**_FACTORS, "lr": 4e-4, "lr_ratio": 4.0, "config": lora}
_WHOLE: dict[str, Any] = {"train": "parts.train_projections", "saves": "model", "checkpoint": "model"}

METHODS = {
    method.name: method
    for method in (
        Method("lora", "low-rank factors beside the projections", **_LORA),
        Method("full", "the projections themselves", lr=5e-5, lr_ratio=2.0, **_WHOLE),
        Method("dora", "LoRA of the direction, and the norm of every row", **_LORA | {"config": partial(lora, use_dora=True)}),
        Method("rslora", "LoRA scaled by alpha / sqrt(rank)", **_LORA | {"config": partial(lora, use_rslora=True), "lr": 2e-4}),
        Method("pissa", "LoRA that starts as the largest singular directions", **_LORA | {"lr": 2e-4, "start": "start.start_pissa"}),
        Method("olora", "LoRA that starts as a QR decomposition", **_LORA | {"lr": 2e-4, "start": "start.start_olora"}),
        Method("eva", "LoRA that starts as the main directions of the inputs", **_LORA, start="eva.start_eva", batches=8),
        Method("loftq", "LoRA that starts as the error of 4-bit weights", **_LORA, start="start.start_loftq"),
        Method("loraplus", "LoRA with a higher rate for B", **_LORA | {"lr": 1e-4, "lr_ratio": 2.0, "b_lr_ratio": 16.0}),
        Method(
            "adalora", "LoRA whose ranks are shared out while it trains",
            **_FACTORS, lr=1e-3, lr_ratio=4.0, config=adalora, steps=True, checkpoint="trained",
        ),
        Method("ia3", "a factor for every output", lr=3e-3, lr_ratio=2.0, config=ia3, decays=False),
        Method(
            "vera", "two vectors around random factors that all projections share",
            lr=4e-3, lr_ratio=2.0, rank=256, dropout=0.0, config=vera, decays=False, rank_is_bound=False,
        ),
        Method("galore", "the projections, by gradients of low rank", lr=3e-5, lr_ratio=2.0, rank=4, alpha=4.0, **_WHOLE),
        Method(
            "sift", "the entries with the largest gradients",
            lr=1e-4, lr_ratio=2.0, density=0.05, train="sparse.train_sift", start="sparse.start_sift", batches=8, checkpoint="trained",
            decays=False,
        ),
        Method("bitfit", "the projections' biases", lr=4e-4, lr_ratio=2.0, train="parts.train_biases", checkpoint="trained"),
        Method("head", "the head alone", lr=1e-3, lr_ratio=None, train="parts.train_head", checkpoint="trained"),
    )
}  # fmt: skip
