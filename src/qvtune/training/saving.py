"""What a finished run leaves: its adapter or model, and its result."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from qvtune.adaptation import count_parameters, restore
from qvtune.adapters import ADAPTATION_FILE, save_adapter
from qvtune.files import staged_folder, write_json, write_text
from qvtune.methods.adapted import adaptation_of
from qvtune.methods.table import METHODS
from qvtune.tasks.examples import TUNING
from qvtune.tasks.task import Task
from qvtune.training.config import TrainConfig
from qvtune.training.environment import peak_memory
from qvtune.training.fit import Fitted
from qvtune.training.folder import RunFolder
from qvtune.training.hardware import describe_hardware
from qvtune.training.prepare import Prepared


def save_trained(
    model: nn.Module, task: Task, tokenizer: PreTrainedTokenizerBase, folder: RunFolder, card: str
) -> Path:
    """Save the adapter, or the whole model of a full training, with `card` as its README, and return the folder.

    The whole model is restored to its original shape first, and is no longer adapted afterwards.
    """
    adaptation = adaptation_of(model)
    assert adaptation is not None, "a run's model is adapted"
    is_adapter = METHODS[adaptation.method].saves == "adapter"
    target = folder.adapter if is_adapter else folder.model
    if target.exists():
        return target  # whole, since it appears by renaming: the run was killed between this and its result
    with staged_folder(target) as staging:
        if is_adapter:
            save_adapter(model, staging)
            write_text(staging / "README.md", card)  # instead of PEFT's template
        else:
            whole: Any = restore(model)
            task.finish(whole, tokenizer)
            whole.save_pretrained(str(staging))
            write_json(staging / ADAPTATION_FILE, adaptation.to_dict())
            write_text(staging / "README.md", card)
        tokenizer.save_pretrained(str(staging))
    return target


def describe_result(config: TrainConfig, prepared: Prepared, fitted: Fitted) -> dict[str, Any]:
    """Return `result.json` without the conclusions from the predictions."""
    progress, task = fitted.progress, prepared.data.task
    counts = count_parameters(prepared.model)
    peak, whose = peak_memory(prepared.device)
    is_best = fitted.best_step is not None
    settings = fitted.evaluation.task.to_dict().get("settings")
    return {
        "status": "finished",
        "task": task.name,
        **({} if settings == task.to_dict().get("settings") else {"task_settings": settings}),
        "metrics": fitted.evaluation.metrics,
        "main_metric": task.main_metric,
        "checkpoint": {
            "step": fitted.best_step if is_best else progress.step,
            "chosen": "best" if is_best else "last",
            "chosen_by": fitted.selection.describe() if is_best else None,
            "chosen_on": (TUNING if TUNING in prepared.splits else "validation") if is_best else None,
        },
        "reported_on": [split for split in prepared.splits if split != TUNING],
        "train_loss": _mean_loss(progress.records),
        "head_start": prepared.head_start.to_dict(),
        "hardware": describe_hardware(prepared.device, prepared.precision, fast=config.fast),
        "steps": progress.step,
        "epochs": progress.epoch,
        "train_examples": len(prepared.train),
        "evaluation_examples": {split: len(dataset) for split, dataset in prepared.splits.items()},
        "device": str(prepared.device),
        "seconds": fitted.seconds,
        "train_samples_per_second": fitted.samples_per_second,
        "peak_memory_bytes": peak,
        "peak_memory_of": whose,
        "trainable_parameters": counts.by_role | {"head": counts.head, "total": counts.trainable},
        "total_parameters": counts.total,
        "seed": config.seed,
        "fingerprint": config.fingerprint(),
    }


def _mean_loss(records: list[dict[str, Any]]) -> float | None:
    """Return the mean training loss of all steps; a record holds the mean since the record before it."""
    total, last = 0.0, 0
    for record in records:
        if "loss" in record:
            total += record["loss"] * (record["step"] - last)
            last = record["step"]
    return total / last if last else None
