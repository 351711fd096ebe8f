"""Examples in docstrings run, and every public name has one or says what it raises."""

import doctest
import importlib
import inspect

import pytest

import qvtune


@pytest.mark.parametrize("name", ["qvtune.roles.find", "qvtune.adaptation", "qvtune.theory.bound"])
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_public_functions_describe_arguments_and_errors() -> None:
    for name in qvtune.__all__:
        public = getattr(qvtune, name)
        text = inspect.getdoc(public)
        assert text, name
        if inspect.isfunction(public) and len(inspect.signature(public).parameters) > 1:
            assert "Args:" in text, name
            assert "Raises:" in text, name
