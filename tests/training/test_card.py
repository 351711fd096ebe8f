"""The README of an adapter, whose names are the user's."""

import ast

import pytest
import yaml

from qvtune.tasks.classification import Classification
from qvtune.training.card import adapter_card, escape_markdown
from qvtune.training.config import make_config

HOSTILE = ["<img src=x onerror=alert(1)>", "[a](b 'c')", "a\n# b", "**a** `b` | c_d", "![a](b)", "a\\", 'a"b']


def card(model: str, name: str) -> str:
    task = Classification(name, ("no", "yes"), "classes", "accuracy", ("text",), "label")
    config = make_config({"model": model, "data": "d.csv", "out": "o"})
    return adapter_card(config, task, {"query": 1e-3}, {"accuracy": 0.5}, True)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_nothing_but_text_in_the_heading(name: str) -> None:
    lines = card("owner/model", name).splitlines()
    (heading,) = [line for line in lines if line.startswith("# ")]
    assert heading == f"# lora adapter of owner/model for {escape_markdown(name)}"
    for sign in "<>[]`*_|!":
        assert heading.count(sign) == heading.count(f"\\{sign}")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_model_s_name_stays_one_value_in_the_front_matter_and_in_code(name: str) -> None:
    text = card(name, "mine")
    assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))["base_model"] == name
    (line,) = [line for line in text.splitlines() if "from_pretrained(" in line and line.startswith("base")]
    call = ast.parse(line).body[0].value
    assert call.args[0].value == name
