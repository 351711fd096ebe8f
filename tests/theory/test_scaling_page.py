"""The page about Theorem 2 has the numbers of its `scaling.json`, and names tests that exist."""

import json
import re
from pathlib import Path

import pytest

from qvtune.lab.formats import to_markdown
from qvtune.report.scaling_tables import find_cell, scaling_tables

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "theory-scaling.md"


@pytest.fixture(scope="module")
def data() -> dict:
    return json.loads((PAGE.with_suffix("") / "scaling.json").read_text(encoding="utf-8"))


def test_the_tables_are_those_of_the_results(data: dict) -> None:
    text = PAGE.read_text(encoding="utf-8")
    tables = scaling_tables(data)
    assert len(tables) == 8
    for titled in tables:
        assert to_markdown(titled.table) in text, titled.title
        assert titled.text in " ".join(text.split()), titled.title


def test_the_theorems_pair_is_the_only_one_that_learns_on_both_sides(data: dict) -> None:
    fixed = [cell for cell in data["toy"] if (cell["attention"], cell["value"]) == ("linear", "factor")]
    learning = [cell for cell in fixed if set(cell["verdict"].values()) == {"learns"}]
    assert [(cell["query_key_rate"], cell["value_rate"]) for cell in learning] == [("n^-1", "1")]
    for step in learning[0]["steps"]:
        assert max(abs(step["exponents"][name]["slope"]) for name in ("d1", "d2", "d3")) <= 0.1
    common = find_cell(data, "linear", "factor", "n^-1", "n^-1")["verdict"]
    assert common == {"query_key": "learns", "value": "starves"}
    assert find_cell(data, "linear", "factor", "1", "1")["verdict"]["query_key"] == "blows up"
    assert data["options"]["widths"][-1] / data["options"]["widths"][0] >= 100


def test_what_the_page_says_of_lambda(data: dict) -> None:
    def within(step: int) -> float:
        return max(abs(block["steps"][step]["lambda"]["slope"]) for block in data["blocks"])

    assert within(0) < 0.055
    assert within(2) < 0.115
    intervals = {
        (block["family"], block["method"], step): block["steps"][step]["lambda"]
        for block in data["blocks"]
        for step in (0, 2)
    }
    above = [kind for kind, exponent in intervals.items() if exponent["low"] > 0]
    below = [kind for kind, exponent in intervals.items() if exponent["high"] < 0]
    assert [family for family, _, _ in above] == ["llama"] * 3
    assert below == [("bert", "lora", 2)]
    assert all(e["low"] <= 1 <= e["high"] for e in data["full_query_key_with_lora_value"].values())
    above = {block["family"] for block in data["blocks"] if min(block["value_to_query_key"].values()) > 1}
    below = {block["family"] for block in data["blocks"] if max(block["value_to_query_key"].values()) < 1}
    assert (above, below) == ({"bert"}, {"llama", "gpt2"})


def test_the_tests_that_it_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 7
    for path, function in named:
        assert f"def {function}" in (REPOSITORY / path).read_text(encoding="utf-8"), (path, function)
