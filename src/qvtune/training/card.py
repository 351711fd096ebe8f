"""The README of a saved adapter: what it is, how it was trained, how to load it."""

import json
import re
from pathlib import Path

import yaml

from qvtune.methods.table import METHODS
from qvtune.roles.layouts import ROLES
from qvtune.tasks.task import Task
from qvtune.training.config import TrainConfig

MARKUP = re.compile(r"[\\`*_{}\[\]()<>#|~&$!]")

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
    options = {name: getattr(config, name) for name in method.defaults}
    what = [
        *([", ".join(ROLES[role] for role in config.roles)] if method.has_roles else []),
        *([", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in options.items())] if options else []),
        f"learning rates {', '.join(f'{name} {rate:g}' for name, rate in rates.items())}",
    ]
    is_local = Path(config.model).exists() or ":" in config.model
    model = Path(config.model).name if is_local else config.model
    base = json.dumps("path/of/the/base/model" if is_local else config.model)
    lines = [
        "---",
        *([] if is_local else [yaml.safe_dump({"base_model": config.model}).strip()]),
        *(["library_name: peft"] if is_plain else []),
        f"tags: [{method.name}, qvtune]",
        "---",
        f"# {method.name} adapter of {escape_markdown(model)} for {escape_markdown(task.name)}",
        "",
        f"{'Roles ' if method.has_roles else ''}{'; '.join(what)}; seed {config.seed}. Method {method.name}: "
        f"{method.summary}. Trained with qvtune.",
        "",
        "| metric | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4f} |" for name, value in metrics.items()),
        "",
        (LOADING if is_plain else LOADING_BY_QVTUNE).format(
            base=base,
            auto_class=task.auto_class.__name__,
            arguments=f", {task.loading_arguments}" if task.loading_arguments else "",
        ),
    ]
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    """Return text on one line, escaped for Markdown and HTML; names come from the user and may hold anything."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
