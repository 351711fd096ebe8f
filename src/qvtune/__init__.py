"""Fine-tune the attention of pretrained transformers where it pays: query and value, each at its own rate."""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvtune.adaptation import Adaptation, ParameterCounts, adapt, adaptation_of, count_parameters, restore
    from qvtune.adapters import load_adapter, save_adapter
    from qvtune.errors import QVTuneError
    from qvtune.fast.fast_path import make_fast, undo_fast
    from qvtune.groups import param_groups
    from qvtune.lab.compare import compare
    from qvtune.lab.reproduce import reproduce
    from qvtune.lab.sweep import sweep
    from qvtune.report.page import write_report
    from qvtune.roles.attention import AttentionLayer, AttentionMap, Projection
    from qvtune.roles.declare import declare_attention
    from qvtune.roles.find import find_attention
    from qvtune.roles.layouts import Rows
    from qvtune.search.recipe import Recipe
    from qvtune.search.suggest import suggest, suggest_rates
    from qvtune.theory.bound import generalization_bound
    from qvtune.theory.scaling import scaling_experiment
    from qvtune.train.trainer import Trainer, TrainingArguments

__version__ = "0.1.0"

# torch and transformers take seconds to import, so each name is fetched when it is first used.
_HOMES = {
    "Adaptation": "qvtune.adaptation",
    "AttentionLayer": "qvtune.roles.attention",
    "AttentionMap": "qvtune.roles.attention",
    "ParameterCounts": "qvtune.adaptation",
    "Projection": "qvtune.roles.attention",
    "QVTuneError": "qvtune.errors",
    "Recipe": "qvtune.search.recipe",
    "Rows": "qvtune.roles.layouts",
    "Trainer": "qvtune.train.trainer",
    "TrainingArguments": "qvtune.train.trainer",
    "adapt": "qvtune.adaptation",
    "adaptation_of": "qvtune.adaptation",
    "compare": "qvtune.lab.compare",
    "count_parameters": "qvtune.adaptation",
    "declare_attention": "qvtune.roles.declare",
    "find_attention": "qvtune.roles.find",
    "generalization_bound": "qvtune.theory.bound",
    "load_adapter": "qvtune.adapters",
    "make_fast": "qvtune.fast.fast_path",
    "param_groups": "qvtune.groups",
    "reproduce": "qvtune.lab.reproduce",
    "restore": "qvtune.adaptation",
    "save_adapter": "qvtune.adapters",
    "scaling_experiment": "qvtune.theory.scaling",
    "suggest": "qvtune.search.suggest",
    "suggest_rates": "qvtune.search.suggest",
    "sweep": "qvtune.lab.sweep",
    "undo_fast": "qvtune.fast.fast_path",
    "write_report": "qvtune.report.page",
}
# Names of earlier versions.
_FORMER = {"accelerate": "make_fast", "decelerate": "undo_fast"}

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
    "adapt",
    "adaptation_of",
    "compare",
    "count_parameters",
    "declare_attention",
    "find_attention",
    "generalization_bound",
    "load_adapter",
    "make_fast",
    "param_groups",
    "reproduce",
    "restore",
    "save_adapter",
    "scaling_experiment",
    "suggest",
    "suggest_rates",
    "sweep",
    "undo_fast",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        warnings.warn(f"qvtune.{name} is called qvtune.{_FORMER[name]} now", DeprecationWarning, stacklevel=2)
        name = _FORMER[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'qvtune' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
