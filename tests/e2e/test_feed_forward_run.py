"""A run of every role: a rate for each in plan and log, and an interrupted one ends like the straight one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny_bert, write_reviews

import qvtune
from qvtune.errors import Interrupted
from qvtune.interrupts import Stop
from qvtune.training.callbacks import Callback, Progress


class Halt(Callback):
    def __init__(self, stop: Stop, step: int) -> None:
        self.stop, self.step = stop, step

    def on_step_end(self, progress: Progress) -> None:
        if progress.step == self.step:
            self.stop.requested = True


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_of_every_role(method: str, tmp_path: Path) -> None:
    save_tiny_bert(tmp_path / "bert")
    write_reviews(tmp_path / "reviews.csv", 60)
    options = {
        "model": str(tmp_path / "bert"), "data": str(tmp_path / "reviews.csv"), "roles": "all", "method": method,
        "lr": 1e-3, "lr_ratio": 2, "rate": ["up=4x", "d=2e-4"], "max_steps": 6, "batch_size": 8, "logging_steps": 2,
    }  # fmt: skip
    straight = qvtune.train(options | {"out": str(tmp_path / "straight")})
    halted = options | {"out": str(tmp_path / "halted")}
    stop = Stop()
    with pytest.raises(Interrupted):
        qvtune.train(halted, stop=stop, callbacks=[Halt(stop, 3)])
    resumed = qvtune.train(halted)
    weights = [sorted(run.folder.path.rglob("*.safetensors")) for run in (straight, resumed)]
    weights = [[file for file in files if "checkpoints" not in file.parts] for files in weights]
    assert len(weights[0]) == len(weights[1]) == 1
    first, second = (load_file(files[0]) for files in weights)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

    plan = json.loads((tmp_path / "straight" / "plan.json").read_text())
    rates = {"query": 1e-3, "key": 1e-3, "value": 2e-3, "output": 1e-3, "up": 4e-3, "down": 2e-4, "head": 1e-3}
    assert plan["learning_rates"] == pytest.approx(rates, rel=1e-12)
    assert (plan["roles"], plan["attention_layers"], plan["feed_forward_layers"]) == ("qkvoud", 2, 2)
    assert list(plan["parameters_by_role"]) == [name for name in rates if name != "head"]
    records = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    logged = next(record for record in records if "lr/up" in record)
    assert logged["lr/up"] / logged["lr/query"] == pytest.approx(4)
    assert logged["lr/down"] / logged["lr/query"] == pytest.approx(0.2)
    for prefix in ("update/", "step/", "output/"):
        assert {f"{prefix}up", f"{prefix}down", f"{prefix}value"} <= set().union(*records)
