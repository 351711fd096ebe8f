"""Fine-tune the attention of pretrained transformers where it pays: query and value, each at its own rate."""

import importlib
import importlib.metadata
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvtune.adaptation import adapt, count_parameters, restore
    from qvtune.adapters import load_adapter, save_adapter
    from qvtune.calls import plan, train
    from qvtune.conformance.suite import check_conformance
    from qvtune.data.packaged import locate_model
    from qvtune.errors import QVTuneError
    from qvtune.fast.cpu.memory import kept_memory
    from qvtune.fast.fast_path import make_fast, undo_fast
    from qvtune.groups import param_groups
    from qvtune.interrupts import Stop
    from qvtune.lab.compare import compare
    from qvtune.lab.gap import measure_bound
    from qvtune.lab.reproduce import reproduce
    from qvtune.lab.sweep import sweep
    from qvtune.methods.adapted import adaptation_of, method_of
    from qvtune.methods.method import Adaptation, Method, ParameterCounts
    from qvtune.methods.table import register as register_method
    from qvtune.rates import Rates
    from qvtune.report.listing import list_runs
    from qvtune.report.page import write_report
    from qvtune.roles.attention import AttentionLayer, AttentionMap, FeedForwardLayer, Projection
    from qvtune.roles.declare import declare_attention
    from qvtune.roles.find import find_attention
    from qvtune.roles.layouts import Rows
    from qvtune.search.recipe import Recipe
    from qvtune.search.suggest import suggest, suggest_rates
    from qvtune.tasks.table import register as register_task
    from qvtune.tasks.task import Task
    from qvtune.theory.bound import generalization_bound
    from qvtune.theory.scaling import scaling_experiment
    from qvtune.training.callbacks import Callback, Progress
    from qvtune.training.chatting import chat
    from qvtune.training.environment import describe_environment as environment
    from qvtune.training.inference import TrainedRun, load_run
    from qvtune.training.inference import evaluate_run as evaluate
    from qvtune.training.inference import predict_file as predict
    from qvtune.training.merging import merge_run as merge
    from qvtune.training.schema import config_schema
    from qvtune.training.sharing import push_to_hub
    from qvtune.training.trainer import Trainer, TrainingArguments

    __version__: str

# torch and transformers take seconds to import, so each name is imported when it is first used: from this module, under
# the same name or the one after the colon.
_HOMES = {
    "Adaptation": "qvtune.methods.method",
    "AttentionLayer": "qvtune.roles.attention",
    "AttentionMap": "qvtune.roles.attention",
    "Callback": "qvtune.training.callbacks",
    "FeedForwardLayer": "qvtune.roles.attention",
    "Method": "qvtune.methods.method",
    "ParameterCounts": "qvtune.methods.method",
    "Progress": "qvtune.training.callbacks",
    "Projection": "qvtune.roles.attention",
    "QVTuneError": "qvtune.errors",
    "Rates": "qvtune.rates",
    "Recipe": "qvtune.search.recipe",
    "Rows": "qvtune.roles.layouts",
    "Stop": "qvtune.interrupts",
    "Task": "qvtune.tasks.task",
    "TrainedRun": "qvtune.training.inference",
    "Trainer": "qvtune.training.trainer",
    "TrainingArguments": "qvtune.training.trainer",
    "adapt": "qvtune.adaptation",
    "adaptation_of": "qvtune.methods.adapted",
    "chat": "qvtune.training.chatting",
    "check_conformance": "qvtune.conformance.suite",
    "compare": "qvtune.lab.compare",
    "config_schema": "qvtune.training.schema",
    "count_parameters": "qvtune.adaptation",
    "declare_attention": "qvtune.roles.declare",
    "environment": "qvtune.training.environment:describe_environment",
    "evaluate": "qvtune.training.inference:evaluate_run",
    "find_attention": "qvtune.roles.find",
    "generalization_bound": "qvtune.theory.bound",
    "kept_memory": "qvtune.fast.cpu.memory",
    "list_runs": "qvtune.report.listing",
    "load_adapter": "qvtune.adapters",
    "load_run": "qvtune.training.inference",
    "locate_model": "qvtune.data.packaged",
    "make_fast": "qvtune.fast.fast_path",
    "measure_bound": "qvtune.lab.gap",
    "merge": "qvtune.training.merging:merge_run",
    "method_of": "qvtune.methods.adapted",
    "param_groups": "qvtune.groups",
    "plan": "qvtune.calls",
    "predict": "qvtune.training.inference:predict_file",
    "push_to_hub": "qvtune.training.sharing",
    "register_method": "qvtune.methods.table:register",
    "register_task": "qvtune.tasks.table:register",
    "reproduce": "qvtune.lab.reproduce",
    "restore": "qvtune.adaptation",
    "save_adapter": "qvtune.adapters",
    "scaling_experiment": "qvtune.theory.scaling",
    "suggest": "qvtune.search.suggest",
    "suggest_rates": "qvtune.search.suggest",
    "sweep": "qvtune.lab.sweep",
    "train": "qvtune.calls",
    "undo_fast": "qvtune.fast.fast_path",
    "write_report": "qvtune.report.page",
}
# Names of earlier versions.
_FORMER = {"accelerate": "make_fast", "decelerate": "undo_fast"}

__all__ = [
    "Adaptation",
    "AttentionLayer",
    "AttentionMap",
    "Callback",
    "FeedForwardLayer",
    "Method",
    "ParameterCounts",
    "Progress",
    "Projection",
    "QVTuneError",
    "Rates",
    "Recipe",
    "Rows",
    "Stop",
    "Task",
    "TrainedRun",
    "Trainer",
    "TrainingArguments",
    "adapt",
    "adaptation_of",
    "chat",
    "check_conformance",
    "compare",
    "config_schema",
    "count_parameters",
    "declare_attention",
    "environment",
    "evaluate",
    "find_attention",
    "generalization_bound",
    "kept_memory",
    "list_runs",
    "load_adapter",
    "load_run",
    "locate_model",
    "make_fast",
    "measure_bound",
    "merge",
    "method_of",
    "param_groups",
    "plan",
    "predict",
    "push_to_hub",
    "register_method",
    "register_task",
    "reproduce",
    "restore",
    "save_adapter",
    "scaling_experiment",
    "suggest",
    "suggest_rates",
    "sweep",
    "train",
    "undo_fast",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version(__name__)
    if name in _FORMER:
        warnings.warn(f"qvtune.{name} is called qvtune.{_FORMER[name]} now", DeprecationWarning, stacklevel=2)
        name = _FORMER[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'qvtune' has no attribute '{name}'")
    module, _, own = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(module), own or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
