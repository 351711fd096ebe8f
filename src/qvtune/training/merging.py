"""Write what a run trained as a plain transformers checkpoint."""

from pathlib import Path
from typing import Any

import torch

from qvtune.adaptation import restore
from qvtune.errors import ConfigError, RunError
from qvtune.files import staged_folder, write_text
from qvtune.training.card import model_card
from qvtune.training.inference import TrainedRun, opened_run

# The types of weights, by the names that transformers gives them and by those of `--precision`.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def merge_run(run: TrainedRun | str | Path, out: str | Path, *, dtype: str | torch.dtype | None = None) -> None:
    """Write a run's model as a plain transformers checkpoint; an adapter is merged into the weights.

    The sum is computed in float32, and then rounded once.

    Args:
        run: what `load_run` returned, or a run folder.
        out: a new or empty folder for the checkpoint.
        dtype: the type of the weights: "float32", "bfloat16" or "float16". That of the base model's files when None.

    Raises:
        ConfigError: for another type, or float16 where a weight is too large for it.
        RunError: if `out` exists and is not empty.
    """
    given = _dtype(dtype) if dtype is not None else None
    run, out = opened_run(run), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: exists already. Give --out a new folder.")
    model: Any = restore(run.model) if run.config.saves_adapter else run.model
    run.task.finish(model, run.tokenizer)
    chosen = given or run.base_dtype
    model.to(chosen)
    if odd := _not_finite(model):
        raise ConfigError(
            f"--dtype {str(chosen).removeprefix('torch.')}: '{odd}' has a value that is too large for it. Give --dtype "
            "bfloat16 or float32."
        )
    if out.exists():
        out.rmdir()
    with staged_folder(out) as staging:
        model.save_pretrained(str(staging))
        run.tokenizer.save_pretrained(str(staging))
        rates = run.folder.read_plan()["learning_rates"]
        write_text(staging / "README.md", model_card(run.config, run.task, rates, run.result["metrics"]))


def _dtype(value: str | torch.dtype) -> torch.dtype:
    name = str(value).removeprefix("torch.")
    name = SHORT.get(name, name)
    if name not in DTYPES:
        raise ConfigError(f"--dtype is '{value}'; it is one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def _not_finite(model: Any) -> str | None:
    """Return the name of a parameter that is not finite, if there is one."""
    return next((name for name, value in model.named_parameters() if not value.isfinite().all()), None)
