"""Fine-tune the attention of pretrained transformers where it pays: query and value, each at its own rate."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvtune.adaptation import Adaptation, ParameterCounts, adapt, adaptation_of, count_parameters, restore
    from qvtune.adapters import load_adapter, save_adapter
    from qvtune.errors import QVTuneError
    from qvtune.groups import param_groups
    from qvtune.lab.compare import compare
    from qvtune.lab.reproduce import reproduce
    from qvtune.lab.sweep import sweep
    from qvtune.report.page import write_report
    from qvtune.roles.attention import AttentionLayer, AttentionMap, Projection
    from qvtune.roles.declare import declare_attention
    from qvtune.roles.find import find_attention
    from qvtune.roles.layouts import Rows
    from qvtune.search.bench import Recipe
    from qvtune.search.suggest import suggest, suggest_rates
    from qvtune.theory.bound import generalization_bound
    from qvtune.theory.scaling import scaling_experiment
    from qvtune.train.fast.accelerate import accelerate, decelerate
    from qvtune.train.trainer import Trainer, TrainingArguments

__version__ = "0.1.0"

# torch and transformers take seconds to import, so each name is fetched when it is first used.
_HOMES = {
    "Adaptation": "qvtune.adaptation",
    "AttentionLayer": "qvtune.roles.attention",
    "AttentionMap": "qvtune.roles.attention",
    "ParameterCounts": "qvtune.adaptation",
    "Projection": "qvtune.roles.attention",
    "Recipe": "qvtune.search.bench",
    "QVTuneError": "qvtune.errors",
    "Rows": "qvtune.roles.layouts",
    "Trainer": "qvtune.train.trainer",
    "TrainingArguments": "qvtune.train.trainer",
    "accelerate": "qvtune.train.fast.accelerate",
    "adapt": "qvtune.adaptation",
    "adaptation_of": "qvtune.adaptation",
    "compare": "qvtune.lab.compare",
    "count_parameters": "qvtune.adaptation",
    "decelerate": "qvtune.train.fast.accelerate",
    "declare_attention": "qvtune.roles.declare",
    "find_attention": "qvtune.roles.find",
    "generalization_bound": "qvtune.theory.bound",
    "load_adapter": "qvtune.adapters",
    "param_groups": "qvtune.groups",
    "reproduce": "qvtune.lab.reproduce",
    "restore": "qvtune.adaptation",
    "save_adapter": "qvtune.adapters",
    "scaling_experiment": "qvtune.theory.scaling",
    "suggest": "qvtune.search.suggest",
    "suggest_rates": "qvtune.search.suggest",
    "sweep": "qvtune.lab.sweep",
    "write_report": "qvtune.report.page",
}

__all__ = [
    "Adaptation",
    "AttentionLayer",
    "AttentionMap",
    "ParameterCounts",
    "Projection",
    "QVTuneError",
    "Recipe",
    "Rows",
    "Trainer",
    "TrainingArguments",
    "accelerate",
    "adapt",
    "adaptation_of",
    "compare",
    "count_parameters",
    "decelerate",
    "declare_attention",
    "find_attention",
    "generalization_bound",
    "load_adapter",
    "param_groups",
    "reproduce",
    "restore",
    "save_adapter",
    "scaling_experiment",
    "suggest",
    "suggest_rates",
    "sweep",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qvtune' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
