"""How a reproduction differs from the published experiment, in sentences."""

from collections.abc import Sequence
from typing import Any

from qvtune.lab.presets import Preset
from qvtune.training.config import TrainConfig

# Options that change no result, or that other sentences report.
SILENT = {
    "out", "data", "glue_dir", "report_to", "num_workers", "logging_steps", "seed", "fast", "eval_batch_size",
    "trust_remote_code", "attention", "device",
}  # fmt: skip

NAMES = {"max_train_samples": "training examples", "max_eval_samples": "evaluation examples"}
UNSET = {
    "max_train_samples": "all",
    "max_eval_samples": "all",
    "max_steps": "as many steps as the epochs have",
    "head_lr": "the rate of query and key",
    "layers": "all",
}


def list_deviations(
    full: Preset, chosen: Preset, configs: Sequence[tuple[TrainConfig, TrainConfig]], seeds: Sequence[int]
) -> list[str]:
    """Return the differences: choices, options and what the paper leaves open.

    Args:
        full: the experiment.
        chosen: the part of it that is run.
        configs: for every run, the paper's configuration and its own.
        seeds: the seeds of the runs.
    """
    found = []
    if len(chosen.tasks) < len(full.tasks):
        found.append(f"tasks: {', '.join(chosen.tasks)} of {', '.join(full.tasks)}")
    if len(chosen.rows) < len(full.rows):
        found.append(f"rows: {len(chosen.rows)} of {len(full.rows)}")
    if len(seeds) > 1:
        found.append(f"seeds: the mean over {', '.join(map(str, seeds))} instead of one run")
    found += _options(configs)
    if any(here.fast for _, here in configs):
        found.append(
            "the fast path: batches of texts of similar length, padded to the longest and not to --max-length "
            "(--no-fast turns it off)"
        )
    if configs and all(here.head_lr is None for _, here in configs):
        found.append(
            "the head trains at the rate of query and key, its biases too; the published code trains those at the "
            "value's rate (--head-lr sets another)"
        )
    if full.unstated:
        found.append(f"not stated in the paper, so as qvtune has it: {', '.join(full.unstated)}")
    return found


def _options(configs: Sequence[tuple[TrainConfig, TrainConfig]]) -> list[str]:
    """Return a sentence for every option, with all pairs of values that occur."""
    pairs: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for paper, here in configs:
        old, new = paper.model_dump(mode="json"), here.model_dump(mode="json")
        for name in old.keys() - SILENT:
            if old[name] != new[name]:
                here_values, paper_values = pairs.setdefault(name, ({}, {}))
                here_values[_text(name, new[name])] = None
                paper_values[_text(name, old[name])] = None
    order = list(TrainConfig.model_fields)
    return [
        f"{NAMES.get(name, name)}: {' or '.join(pairs[name][0])} instead of {' or '.join(pairs[name][1])}"
        for name in sorted(pairs, key=order.index)
    ]


def _text(name: str, value: Any) -> str:
    if value is None:
        return UNSET.get(name, "none")
    return f"{value:g}" if isinstance(value, float) else str(value)
