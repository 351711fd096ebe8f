"""The public names, and what importing the package costs."""

import inspect
import subprocess
import sys

import pytest

import qvtune

FUNCTIONS = [
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

# Functions with a second argument that nobody would want to name.
TWO_SUBJECTS = {"declare_attention": "roles", "load_adapter": "folder", "save_adapter": "folder"}
# Functions that do not start from a model.
OTHER_SUBJECTS = {
    "chat": ["run", "messages"],
    "config_schema": [],
    "environment": ["device"],
    "check_conformance": ["ways"],
    "evaluate": ["run"],
    "kept_memory": [],
    "list_runs": ["paths"],
    "load_run": ["path"],
    "locate_model": ["name"],
    "measure_bound": ["run"],
    "merge": ["run", "out"],
    "plan": ["options"],
    "predict": ["run", "data", "out"],
    "push_to_hub": ["source", "name"],
    "register_method": ["method"],
    "register_task": ["kind"],
    "train": ["options"],
    "compare": ["methods"],
    "generalization_bound": ["attention"],
    "reproduce": ["experiment"],
    "scaling_experiment": ["options"],
    "suggest": ["options"],
    "suggest_rates": ["model", "batches", "validation"],
    "sweep": ["options", "axes"],
    "write_report": ["path"],
}
# What they are called in their own modules, where that says what they are of.
OWN_NAMES = {
    "environment": "describe_environment",
    "evaluate": "evaluate_run",
    "merge": "merge_run",
    "predict": "predict_file",
    "register_method": "register",
    "register_task": "register",
}
CLASSES = [
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
]


def test_all_is_sorted_and_complete():
    assert qvtune.__all__ == sorted(qvtune.__all__)
    assert sorted(FUNCTIONS + CLASSES) == qvtune.__all__
    assert dir(qvtune) == qvtune.__all__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    function = getattr(qvtune, name)
    assert inspect.isfunction(function)
    assert function.__name__ == OWN_NAMES.get(name, name)
    assert function.__doc__


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name):
    kind = getattr(qvtune, name)
    assert inspect.isclass(kind)
    assert kind.__name__ == name
    assert kind.__doc__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_after_the_subject_are_keyword_only(name):
    parameters = list(inspect.signature(getattr(qvtune, name)).parameters.values())
    positional = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    from_model = ["model", *([TWO_SUBJECTS[name]] if name in TWO_SUBJECTS else [])]
    assert positional == OTHER_SUBJECTS.get(name, from_model)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[len(positional) :])


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'qvtune' has no attribute 'adpat'"):
        qvtune.adpat  # noqa: B018


def test_the_trainer_is_that_of_transformers():
    import transformers

    assert issubclass(qvtune.Trainer, transformers.Trainer)
    assert issubclass(qvtune.TrainingArguments, transformers.TrainingArguments)


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_is_light_and_changes_nothing():
    heavy = "torch transformers peft accelerate datasets numpy sklearn altair vl_convert"
    code = (
        "import os, sys; before = dict(os.environ); import qvtune; dir(qvtune); "
        f"print(*[m for m in {heavy.split()!r} if m in sys.modules], 'same' if before == dict(os.environ) else 'env')"
    )
    assert run(code) == ["same"]


def test_names_stay_functions_after_importing_the_modules():
    code = (
        "import qvtune, qvtune.groups, qvtune.adaptation, qvtune.roles.find, qvtune.roles.attention\n"
        "import inspect\n"
        f"print(*[n for n in {FUNCTIONS!r} if not inspect.isfunction(getattr(qvtune, n))], 'done')"
    )
    assert run(code) == ["done"]


def test_star_import():
    names = {}
    exec("from qvtune import *", names)
    assert set(qvtune.__all__) <= set(names)


@pytest.mark.parametrize(("former", "now"), {"accelerate": "make_fast", "decelerate": "undo_fast"}.items())
def test_former_names_are_found_with_a_warning(former, now):
    with pytest.warns(DeprecationWarning, match=f"qvtune.{former} is called qvtune.{now} now"):
        assert getattr(qvtune, former) is getattr(qvtune, now)
