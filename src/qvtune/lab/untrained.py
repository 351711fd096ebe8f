"""The metrics of a model before any training."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from qvtune.data.glue import PREFIX
from qvtune.files import write_json
from qvtune.lab.store import Store
from qvtune.training.config import TrainConfig


def measure_untrained(store: Store, config: TrainConfig, console: Console | None = None) -> dict[str, float]:
    """Return the metrics of a run's model before the first step, with the run's own new head.

    They are stored in `before/NAME.json` of the store, where the next call finds them.

    Args:
        store: where they are stored.
        config: the run's; a LoRA adapter changes nothing before the first step.
        console: where progress goes; standard error when None.
    """
    file = untrained_file(store, config)
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))["metrics"]
    metrics = _measure(config, console or Console(stderr=True))
    write_json(file, {"task": config.data.removeprefix(PREFIX), "seed": config.seed, "metrics": metrics})
    return metrics


def untrained_file(store: Store, config: TrainConfig) -> Path:
    """Return the file in which `measure_untrained` stores the metrics."""
    return store.path / "before" / f"{config.fingerprint()}.json"


def read_untrained(store: Store) -> list[dict[str, Any]]:
    """Return `task`, `seed` and `metrics` for every model of a store that was measured before training."""
    files = sorted((store.path / "before").glob("*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _measure(config: TrainConfig, console: Console) -> dict[str, float]:
    from qvtune.fast.fast_path import undo_fast
    from qvtune.tasks.examples import TUNING
    from qvtune.training.batches import EvaluationBatches
    from qvtune.training.evaluate import evaluate_set, labels_of, measure
    from qvtune.training.prepare import prepare

    prepared = prepare(config.model_copy(update={"head_start": "random"}))
    model, task = undo_fast(prepared.model), prepared.data.task
    scores, labels = {}, {}
    for split, tokens in prepared.splits.items():
        if split != TUNING:
            batches = EvaluationBatches(tokens, prepared.collate, config.eval_batch_size)
            scores[split] = evaluate_set(model, task, batches, console)
            labels[split] = labels_of(task, tokens)
    return measure(task, scores, labels).task_metrics
