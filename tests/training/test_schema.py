"""The JSON Schema of configuration files, by a validator of its own: what a run reads is valid, and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

import qvtune
from qvtune.cli.main import main
from qvtune.methods.table import METHODS
from qvtune.tasks.table import TASKS
from qvtune.training.config import TrainConfig, make_config

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = {"model": "pkg:minilm", "data": "reviews.csv", "out": "runs/a"}
PAGES = sorted([*(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "README.md"])
EXAMPLES = [
    (page.name, text)
    for page in PAGES
    for text in re.findall(r"^```yaml\n(# qvtune .*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = qvtune.config_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def problems(validator: Draft202012Validator, value: Any) -> list[str]:
    return [error.message for error in validator.iter_errors(value)]


def test_every_example_of_the_documentation_is_valid(validator: Draft202012Validator) -> None:
    assert len(EXAMPLES) >= 2
    for page, text in EXAMPLES:
        assert problems(validator, yaml.safe_load(text)) == [], page


@pytest.mark.parametrize("method", METHODS)
def test_what_a_run_stores_is_valid(method: str, validator: Draft202012Validator) -> None:
    assert problems(validator, yaml.safe_load(make_config(BASE | {"method": method}).to_yaml())) == []


@pytest.mark.parametrize(
    "value",
    [
        {"lr": "1e-4", "head_lr": 1e-3, "lr_ratio": "auto"},
        {"roles": ["q", "v"], "layers": "0-3", "text_column": "body", "label_column": ["a", "b"]},
        {"layers": 2, "early_stopping": None, "fast": False},
        {"task": "mnli", "target": "q_proj,v_proj"},
        {"model": "m", "axes": {"lr": [1e-4, "4e-4"], "layers": ["0,1", "2,3"]}},
        {"runs": [{"lr": 1e-4}, {"method": "dora"}]},
    ],
)
def test_the_forms_that_a_file_may_use(value: dict[str, Any], validator: Draft202012Validator) -> None:
    assert problems(validator, value) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"lr_ration": 4}, "'lr_ration' was unexpected"),
        ({"lr": "fast"}, "'fast' is not valid"),
        ({"lr": -1}, "-1 is not valid"),
        ({"method": "loar"}, "'loar' is not one of"),
        ({"task_type": "tagger"}, "is not valid"),
        ({"schedule": "square"}, "'square' is not one of"),
        ({"fast": "perhaps"}, "'perhaps' is not of type 'boolean'"),
        ({"axes": {"lrr": [1]}}, "'lrr' was unexpected"),
        ({"runs": [{"lrr": 1}]}, "'lrr' was unexpected"),
    ],
)
def test_what_a_run_refuses_is_not_valid(value: dict[str, Any], expected: str, validator: Draft202012Validator) -> None:
    (problem,) = problems(validator, value)
    assert expected in problem


def test_it_names_every_option_with_its_help_and_choices() -> None:
    properties = qvtune.config_schema()["properties"]
    for name, field in TrainConfig.model_fields.items():
        assert properties[name]["description"] == field.description
    assert properties["method"]["enum"] == [*METHODS, None]
    assert properties["task_type"]["anyOf"][0]["enum"] == list(TASKS)
    assert properties["rank"]["default"] == TrainConfig.model_fields["rank"].default


def test_the_command_prints_it(capsys: pytest.CaptureFixture) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == qvtune.config_schema()
