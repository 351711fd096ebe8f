"""A tiny model and reviews, for searches of a few seconds."""

from pathlib import Path

import pytest
from tiny import save_tiny_bert, write_reviews


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("search")
    save_tiny_bert(place / "bert")
    write_reviews(place / "reviews.csv", 400)
    return place


@pytest.fixture
def options(place: Path) -> dict:
    return {
        "model": str(place / "bert"),
        "data": str(place / "reviews.csv"),
        "batch_size": 8,
        "epochs": 4,
        "precision": "fp32",
    }
