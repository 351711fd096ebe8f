"""What a model scores before any training."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from qvtune.data.glue import PREFIX
from qvtune.lab.store import Store
from qvtune.train.config import TrainConfig
from qvtune.train.folder import write_json


def measure_untrained(store: Store, config: TrainConfig, console: Console | None = None) -> dict[str, float]:
    """Return the metrics of a run's model as it is before the first step, with the run's own fresh head.

    They are kept in `before/NAME.json` of the store, where the next call finds them.

    Args:
        store: where they are kept.
        config: of a run; an adapter of LoRA changes nothing before its first step.
        console: where progress goes; standard error when None.
    """
    file = untrained_file(store, config)
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))["metrics"]
    metrics = _measure(config, console or Console(stderr=True))
    write_json(file, {"task": config.data.removeprefix(PREFIX), "seed": config.seed, "metrics": metrics})
    return metrics


def untrained_file(store: Store, config: TrainConfig) -> Path:
    """Return where the metrics of `measure_untrained` are kept."""
    return store.path / "before" / f"{config.fingerprint()}.json"


def read_untrained(store: Store) -> list[dict[str, Any]]:
    """Return `task`, `seed` and `metrics` of every model of a store that was measured before training."""
    files = sorted((store.path / "before").glob("*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _measure(config: TrainConfig, console: Console) -> dict[str, float]:
    from qvtune.train.quiet import quiet_libraries

    quiet_libraries()
    import numpy as np

    from qvtune.fast.fast_path import undo_fast
    from qvtune.tasks.load import TUNING
    from qvtune.tasks.metrics import combine_splits
    from qvtune.train.inference import score_texts
    from qvtune.train.run import prepare

    prepared = prepare(config.model_copy(update={"head_start": "random"}))
    model: Any = undo_fast(prepared.model).eval()
    by_split = {}
    for split, dataset in prepared.splits.items():
        if split != TUNING:
            scores = score_texts(model, prepared.tokenizer, dataset, config.eval_batch_size, console)
            by_split[split] = prepared.data.task.metrics(scores, np.asarray(dataset["labels"]))
    return combine_splits(prepared.data.task, by_split)
