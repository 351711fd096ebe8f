"""The README of what a run saves, an adapter or a model: what it is, how it was trained, how to load it."""

import json
import math
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from qvtune.data.glue import glue_name
from qvtune.data.hub import GLUE_REPOSITORY
from qvtune.data.tables import READERS
from qvtune.methods.table import METHODS
from qvtune.roles.layouts import ROLES
from qvtune.tasks.task import Task
from qvtune.training.config import TrainConfig

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
MARKUP = re.compile(r"[\\`*_{}\[\]()<>#|~&$!]")

# The hub's names of tasks, by the part of transformers' class that says what is on top of a model.
HUB_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation",
}

LOADING = """```python
from peft import PeftModel
from transformers import {auto_class}

base = {auto_class}.from_pretrained({base}{arguments})
model = PeftModel.from_pretrained(base, "path/of/this/folder")
```
"""

LOADING_BY_QVTUNE = """Plain PEFT cannot load this.

```python
import qvtune
from transformers import {auto_class}

base = {auto_class}.from_pretrained({base}{arguments})
model = qvtune.load_adapter(base, "path/of/this/folder")
```
"""

MODEL_LOADING = """```python
from transformers import AutoTokenizer, {auto_class}

model = {auto_class}.from_pretrained("path/of/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
```
"""


def adapter_card(
    config: TrainConfig, task: Task, rates: dict[str, float], metrics: dict[str, float], is_plain: bool
) -> str:
    """Return the README, in Markdown with the front matter that the hub reads.

    Args:
        config: the run's options.
        task: what was learned.
        rates: learning rate by role and head.
        metrics: metrics of the saved weights.
        is_plain: whether plain PEFT loads it.
    """
    method = METHODS[config.method]
    base = json.dumps("path/of/the/base/model" if is_local(config.model) else config.model)
    loading = (LOADING if is_plain else LOADING_BY_QVTUNE).format(
        base=base,
        auto_class=task.auto_class.__name__,
        arguments=f", {task.loading_arguments}" if task.loading_arguments else "",
    )
    return _card(config, task, rates, metrics, f"{method.name} adapter of", "peft" if is_plain else None, loading)


def model_card(config: TrainConfig, task: Task, rates: dict[str, float], metrics: dict[str, float]) -> str:
    """Return the README of a whole model, trained or merged; see `adapter_card`."""
    loading = MODEL_LOADING.format(auto_class=task.auto_class.__name__)
    return _card(config, task, rates, metrics, "Fine-tuned", "transformers", loading)


def is_local(model: str) -> bool:
    """Whether a model's name means nothing on another machine: a folder, or a package."""
    return Path(model).expanduser().exists() or ":" in model


def _card(
    config: TrainConfig,
    task: Task,
    rates: dict[str, float],
    metrics: dict[str, float],
    what: str,
    library: str | None,
    loading: str,
) -> str:
    method = METHODS[config.method]
    options = {name: getattr(config, name) for name in method.defaults}
    settings = [
        *([", ".join(ROLES[role] for role in config.roles)] if method.has_roles else []),
        *([", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in options.items())] if options else []),
        f"learning rates {', '.join(f'{name} {rate:g}' for name, rate in rates.items())}",
    ]
    model = Path(config.model).name if is_local(config.model) else config.model
    lines = [
        "---",
        _front_matter(config, task, metrics, library).to_yaml(),
        "---",
        f"# {what} {escape_markdown(model)} for {escape_markdown(task.name)}",
        "",
        f"{'Roles ' if method.has_roles else ''}{'; '.join(settings)}; seed {config.seed}. Method {method.name}: "
        f"{method.summary}. Trained with qvtune.",
        "",
        "| metric | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4f} |" for name, value in metrics.items()),
        "",
        loading,
    ]
    return "\n".join(lines)


def _front_matter(config: TrainConfig, task: Task, metrics: dict[str, float], library: str | None) -> ModelCardData:
    """Return what the hub reads: base model, library, task, data set, tags and results."""
    dataset, part = hub_dataset(config)
    kind = HUB_TASKS.get(task.head)
    found = [
        EvalResult(
            task_type=kind,
            dataset_type=dataset,
            dataset_name=task.name,
            dataset_config=part,
            dataset_split="validation",
            metric_type=name,
            metric_value=round(value, 4),
        )
        for name, value in metrics.items()
        if dataset is not None and kind is not None and math.isfinite(value)
    ]
    return ModelCardData(
        base_model=None if is_local(config.model) else config.model,
        library_name=library,
        pipeline_tag=kind,
        datasets=[dataset] if dataset is not None else None,
        tags=[METHODS[config.method].name, "qvtune"],
        **({"model_name": task.name, "eval_results": found} if found else {"metrics": list(metrics)}),
    )


def hub_dataset(config: TrainConfig) -> tuple[str | None, str | None]:
    """Return the hub's name of a run's data set and of its part; None for data that is not there."""
    if (name := glue_name(config.data)) is not None:
        return GLUE_REPOSITORY, name
    is_file = Path(config.data).suffix.lower() in READERS or Path(config.data).expanduser().exists()
    if is_file or HUB_NAME.fullmatch(config.data) is None:
        return None, None
    return config.data, config.data_config


def escape_markdown(text: str) -> str:
    """Return text on one line, escaped for Markdown and HTML; names come from the user and may hold anything."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
