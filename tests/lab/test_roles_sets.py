"""Sets of roles side by side: equal numbers of parameters beside plain PEFT's, and each at its best rate."""

from pathlib import Path

import pandas as pd
import pytest
from peft import LoraConfig, get_peft_model
from tiny import save_tiny_bert, save_tiny_llama, write_reviews
from transformers import AutoModel

import qvtune
from qvtune.cli.main import main
from qvtune.errors import ConfigError
from qvtune.lab.roles_sets import best_of_sets, roles_sets

TARGETS = {
    "bert": {
        "qv": ["query", "value"],
        "gud": ["intermediate.dense", r"layer.0.output.dense", "layer.1.output.dense"],
    },
    "llama": {"qv": ["q_proj", "v_proj"], "gud": ["gate_proj", "up_proj", "down_proj"]},
}


@pytest.mark.parametrize(("name", "save"), [("bert", save_tiny_bert), ("llama", save_tiny_llama)])
def test_ranks_give_as_many_parameters_as_plain_peft_counts(tmp_path: Path, name: str, save) -> None:
    folder = save(tmp_path / name)
    options = {"model": str(folder), "rank": 12, "alpha": 24.0}
    found = roles_sets("qv,gud", options, equal_parameters=True)
    words = [word.partition(":")[2].split("+") for (word,) in found.contenders.values()]
    chosen = [dict(part.split("=") for part in parts) for parts in words]
    assert chosen[0] == {"roles": "qv", "rank": "12", "alpha": "24"}

    def count(roles: str, rank: int) -> int:
        model = AutoModel.from_pretrained(folder)
        config = LoraConfig(r=rank, target_modules=TARGETS[name][roles])
        return get_peft_model(model, config).get_nb_trainable_parameters()[0]

    wanted, rank = count("qv", 12), int(chosen[1]["rank"])
    apart = {r: abs(count("gud", r) - wanted) for r in (rank - 1, rank, rank + 1) if r > 0}
    assert min(apart, key=apart.get) == rank
    assert float(chosen[1]["alpha"]) == 2 * rank
    assert f"qv rank 12 and {wanted:,}" in found.notes[0]
    assert f"gud rank {rank} and {count('gud', rank):,}" in found.notes[0]


def test_a_contender_for_every_rate(tmp_path: Path) -> None:
    found = roles_sets(["qv", "attention"], {"model": "m"}, {"lr": ["1e-4", "1e-3"], "lr_ratio": ["1", "4"]})
    assert found.contenders["attention"] == [
        f"lora:roles=qkvo+lr={lr}+lr_ratio={ratio}" for lr in ("1e-4", "1e-3") for ratio in ("1", "4")
    ]
    assert found.notes == []


BAD = {
    "one set": ("qv", {}, {}, False, "name two sets of roles or more"),
    "twice": ("qv,vq", {}, {}, False, "'vq' names roles that another set has"),
    "not a role": ("qv,xy", {}, {}, False, "unknown role 'x'"),
    "roles too": ("qv,k", {"roles": "qv"}, {}, False, "--roles differs from run to run"),
    "an axis that is no rate": ("qv,k", {}, {"rank": ["1"]}, False, "--axis rank: of sets of roles, only rates"),
    "a method without a rank": ("qv,k", {"method": "full"}, {}, True, "--method full has none"),
    "too few parameters": ("v,all", {"rank": 1}, {}, True, "at rank 1, and v has .* Give a higher --rank"),
}


@pytest.mark.parametrize(("sets", "options", "axes", "equal", "message"), BAD.values(), ids=BAD)
def test_what_makes_no_sense(tmp_path: Path, sets, options, axes, equal, message) -> None:
    model = {"model": str(save_tiny_bert(tmp_path / "bert"))}
    with pytest.raises(qvtune.QVTuneError, match=message):
        roles_sets(sets, model | options, axes, equal_parameters=equal)


def test_a_comparison_of_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_bert(tmp_path / "bert")
    write_reviews(tmp_path / "reviews.csv", 60)
    shared = f"--model {tmp_path}/bert --data {tmp_path}/reviews.csv --max-steps 4 --batch-size 8 --rank 12 --seeds 1"
    words = f"compare --roles-sets qv,gud --equal-parameters --axis lr=1e-4,1e-2 {shared} --out {tmp_path}/sets"
    assert main(words.split()) == 0
    printed = capsys.readouterr().out
    assert "Ranks and parameters of the adapters: qv rank 12" in printed
    assert "Each set at its best rates" in printed
    best = pd.read_csv(tmp_path / "sets" / "best.csv")
    table = pd.read_csv(tmp_path / "sets" / "table.csv")
    assert best["roles"].tolist() == ["qv", "gud"]
    for _, row in best.iterrows():
        own = table[table["method"].str.contains(f"roles={'qv' if row['roles'] == 'qv' else 'gud'}")]
        assert len(own) == 2
        assert row["mean"] == own["mean"].max()
    counts = table["adapter_parameters"].unique()
    assert max(counts) / min(counts) < 1.3
    summary = qvtune.compare(
        roles_sets=["qv", "gud"],
        equal_parameters=True,
        axes={"lr": ["1e-4", "1e-2"]},
        out=tmp_path / "sets",
        seeds=1,
        options={"model": str(tmp_path / "bert"), "data": str(tmp_path / "reviews.csv"), "max_steps": 4}
        | {"batch_size": 8, "rank": 12},
    )  # which finds all runs
    assert summary.table["mean"].tolist() == pytest.approx(table["mean"].tolist())


def test_sets_or_methods(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--methods is required"):
        qvtune.compare(out=tmp_path / "c", options={"model": "m", "data": "d.csv"})
    with pytest.raises(ConfigError, match="--methods and --roles-sets qv,k are both given"):
        qvtune.compare("lora", roles_sets="qv,k", out=tmp_path / "c", options={"model": "m", "data": "d.csv"})
    with pytest.raises(ConfigError, match="--equal-parameters is for --roles-sets"):
        qvtune.compare("lora", out=tmp_path / "c", equal_parameters=True, options={"model": "m", "data": "d.csv"})


def test_a_set_without_a_result() -> None:
    summary = pd.DataFrame(
        {"method": ["a", "b"], "task": ["t", "t"], "metric": "x", "mean": [0.5, None], "sd": 0.0, "n": 1}
        | dict.fromkeys(("trained_parameters", "adapter_parameters", "seconds"), 1)
    )
    found = best_of_sets(summary, {"one": ["a"], "two": ["b"]})
    assert found["method"].isna().tolist() == [False, True]
