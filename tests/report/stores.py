"""Real stores of tiny runs: a grid of two rates with runs that failed, and a comparison of ranks on two data sets."""

import itertools
from pathlib import Path
from typing import Any

from rich.console import Console
from tiny import save_tiny_bert, write_reviews

from qvtune.files import write_json
from qvtune.lab.outcome import DIVERGED, FAILED, STOPPED, end_file
from qvtune.lab.store import COMPARISON, SWEEP, Store
from qvtune.training.config import make_config
from qvtune.training.folder import RunFolder
from qvtune.training.run import run

EVIL = "<script>alert('x')</script>&\"$_^"

LRS = (1e-3, 3e-3, 1e-2)
VALUE_LRS = (1e-3, 1e-2)
SEEDS = (0, 1)
ENDED = {
    (1e-2, 1e-2, 0): {"status": DIVERGED, "reason": "loss is nan at step 3", "seconds": 1.5},
    (1e-2, 1e-2, 1): {"status": FAILED, "reason": f"out of memory {EVIL}", "seconds": 0.5},
    (3e-3, 1e-2, 1): {"status": STOPPED, "reason": "given up at step 2", "seconds": 0.2, "steps": 2},
}


def make_model(place: Path) -> dict[str, Any]:
    """Save a tiny model and reviews, and return options that train on them within a second."""
    save_tiny_bert(place / "bert")
    return {
        "model": str(place / "bert"),
        "data": str(write_reviews(place / "reviews.csv", 60)),
        "batch_size": 8,
        "epochs": 2,
        "eval_steps": 3,
        "logging_steps": 2,
        "precision": "fp32",
    }


def train(folder: RunFolder, options: dict[str, Any]) -> None:
    run(make_config(options | {"out": str(folder.path)}), Console(quiet=True))


def make_sweep(path: Path, options: dict[str, Any]) -> Store:
    """A grid over lr and value_lr with two seeds; runs diverged, failed, were stopped, and one is pending."""
    store, given = Store(path), {"model": options["model"], "epochs": 2}
    runs = {
        f"{place:016x}": {"lr": lr, "value_lr": value_lr, "seed": seed}
        for place, (lr, value_lr, seed) in enumerate(itertools.product(LRS, VALUE_LRS, SEEDS))
    }
    store.add(SWEEP, runs | {"f" * 16: {"lr": LRS[0], "value_lr": 3e-2, "seed": 0}}, given, {})
    for name, labels in runs.items():
        ended = ENDED.get(tuple(labels.values()))
        if ended is not None:
            (store.path / "runs").mkdir(exist_ok=True)
            write_json(end_file(store.run_folder(name)), ended)
        else:
            train(store.run_folder(name), options | labels)
    return store


def make_comparison(path: Path, options: dict[str, Any]) -> Store:
    """Three methods on two data sets with two seeds, and the table that `compare` writes beside them."""
    store = Store(path)
    methods = {"lora": {}, f"lora:rank=2{EVIL}": {"rank": 2}, "full": {"method": "full"}}
    tasks = {"reviews": 60, EVIL: 48}
    options_of = {}
    for place, (method, task, seed) in enumerate(itertools.product(methods, tasks, SEEDS)):
        labels = {"method": method, "task": task, "seed": seed}
        options_of[f"{place:016x}"] = labels, methods[method] | {"seed": seed, "max_train_samples": tasks[task] - 20}
    runs = {name: labels for name, (labels, _) in options_of.items()}
    store.add(COMPARISON, runs, {"epochs": 2}, {"baseline": "lora", "notes": [EVIL, "one GPU"], "cells": [{"a": EVIL}]})
    for name, (_, values) in options_of.items():
        train(store.run_folder(name), options | values)
    lines = [
        "method,task,mean,sd,seeds",
        f'lora,"{EVIL.replace(chr(34), chr(34) * 2)}",0.5,0.01,2',
        "full,reviews,0.75,,1",
    ]
    (path / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return store
