"""`METHODS`: every fine-tuning method. A new one of PEFT's is one more entry here, with a test of what it does.

LoRA's default rates were chosen on the development sets of benchmarks/first_run.py; those of the others are their
papers' for small models where they state any, else what LoRA's were before that.
"""

from functools import partial
from typing import Any

from qvtune.methods.configs import adalora, ia3, lora, vera
from qvtune.methods.method import Method

_FACTORS: dict[str, Any] = {"rank": 8, "alpha": 8.0, "dropout": 0.1, "b_lr_ratio": 1.0}
_LORA: dict[str, Any] = {**_FACTORS, "lr": 4e-4, "lr_ratio": 4.0, "config": lora}
_WHOLE: dict[str, Any] = {"train": "parts.train_projections", "saves": "model", "checkpoint": "model"}

_TRAINED: dict[str, Any] = {"checkpoint": "trained"}
_CHANGED: dict[str, Any] = {"lr": 2e-4, "saves_twice": True}


def _lora(name: str, summary: str, **changes: Any) -> Method:
    return Method(name, summary, **_LORA | changes)


METHODS = {
    method.name: method
    for method in (
        _lora("lora", "low-rank factors beside the projections", lr=1e-3),
        Method("full", "the projections themselves", lr=5e-5, lr_ratio=2.0, **_WHOLE),
        _lora("dora", "LoRA of the direction, and the norm of every row", config=partial(lora, use_dora=True)),
        _lora("rslora", "LoRA scaled by alpha / sqrt(rank)", lr=2e-4, config=partial(lora, use_rslora=True)),
        _lora("pissa", "LoRA that starts as the largest singular directions", start="start.start_pissa", **_CHANGED),
        _lora("olora", "LoRA that starts as a QR decomposition", start="start.start_olora", **_CHANGED),
        _lora("eva", "LoRA that starts as the main directions of the inputs", start="eva.start_eva", batches=8),
        _lora("loftq", "LoRA that starts as the error of 4-bit weights", start="start.start_loftq"),
        _lora("loraplus", "LoRA with a higher rate for B", lr=1e-4, lr_ratio=2.0, b_lr_ratio=16.0),
        _lora(
            "adalora",
            "LoRA whose ranks are shared out while it trains",
            lr=1e-3,
            config=adalora,
            steps=True,
            **_TRAINED,
        ),
        Method("ia3", "a factor for every output", lr=3e-3, lr_ratio=2.0, config=ia3, decays=False),
        Method(
            "vera",
            "two vectors around random factors that all projections share",
            lr=4e-3,
            lr_ratio=2.0,
            rank=256,
            dropout=0.0,
            config=vera,
            decays=False,
            rank_is_bound=False,
        ),
        Method("galore", "the projections, by low-rank gradients", lr=3e-5, lr_ratio=2.0, rank=4, alpha=4.0, **_WHOLE),
        Method(
            "sift",
            "the entries with the largest gradients",
            lr=1e-4,
            lr_ratio=2.0,
            density=0.05,
            train="sparse.train_sift",
            start="sparse.start_sift",
            batches=8,
            decays=False,
            saves_twice=True,
            **_TRAINED,
        ),
        Method("bitfit", "the projections' biases", lr=4e-4, lr_ratio=2.0, train="parts.train_biases", **_TRAINED),
        Method("head", "the head alone", lr=1e-3, lr_ratio=None, train="parts.train_head", **_TRAINED),
    )
}
