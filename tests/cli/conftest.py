"""Fixtures of the command line's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mistakes import make_place

from qvtune.network import hub_is_reachable


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the hub a name that never resolves (RFC 6761), so that a test needs no network and uses none."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    hub_is_reachable.cache_clear()
    yield
    hub_is_reachable.cache_clear()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models, good data, and data that is wrong in every way."""
    folder = tmp_path_factory.mktemp("bad")
    make_place(folder)
    return folder
