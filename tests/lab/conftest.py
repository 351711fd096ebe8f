"""A tiny model and reviews, for sweeps of a second."""

from pathlib import Path

import pytest
from tiny import save_tiny_bert, write_reviews


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lab")
    save_tiny_bert(place / "bert")
    write_reviews(place / "reviews.csv", 60)
    return place


@pytest.fixture
def options(place: Path) -> dict:
    return {
        "model": str(place / "bert"),
        "data": str(place / "reviews.csv"),
        "batch_size": 8,
        "epochs": 2,
        "head_lr": 1e-2,
        "precision": "fp32",
        "logging_steps": 2,
    }
