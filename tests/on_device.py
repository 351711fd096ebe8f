"""What the tests of a device share: commands on a model that has nothing random, and what they left."""

import json
from pathlib import Path
from typing import Any

from tiny import save_tiny_bert, save_tiny_gpt2, save_tiny_llama, write_reviews

from qvtune.cli.main import main

TINY = {"bert": save_tiny_bert, "llama": save_tiny_llama, "gpt2": save_tiny_gpt2}


def make_place(folder: Path, reviews: int = 72) -> Path:
    """Save the tiny models, without dropout, and reviews to train on."""
    for name, save in TINY.items():
        save(folder / name)
        without_dropout(folder / name)
    write_reviews(folder / "reviews.csv", reviews)
    return folder


def without_dropout(folder: Path) -> None:
    """Leave a model nothing random: a device draws other numbers than the CPU."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config |= {name: 0.0 for name in config if "dropout" in name or "pdrop" in name}
    file.write_text(json.dumps(config))


def command(words: str) -> None:
    assert main(words.split()) == 0, words


def train(model: Path, data: Path | str, out: Path, words: str) -> dict[str, Any]:
    """Run `qvtune train`, and return the result."""
    command(f"train --model {model} --data {data} --logging-steps 1 --out {out} {words}")
    return read(out, "result.json")


def read(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / name).read_text())


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [record["loss"] for record in records(out) if "loss" in record]


def measured(out: Path) -> list[list[str]]:
    """Return the names of what was logged by role, step by step."""
    return [sorted(name for name in record if "/" in name) for record in records(out)]
