"""The experiment from options to files, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import qvtune
from qvtune.cli.main import main
from qvtune.errors import ConfigError
from qvtune.report.scaling_page import write_scaling
from qvtune.report.scaling_tables import brief_tables, exponent_text
from qvtune.theory.fit import fit_exponent
from qvtune.theory.predict import verdict
from qvtune.theory.results import ScalingResult

TINY = {"widths": [64, 256, 1024], "seeds": 3, "block_widths": [32, 64, 96], "block_seeds": 2, "steps": 2}
WORDS = ["--widths", "64,256,1024", "--seeds", "3", "--block-widths", "32,64,96", "--block-seeds", "2", "--steps", "2"]

THEOREM = ("linear", "factor", "n^-1", "1")


@pytest.fixture(scope="module")
def result() -> ScalingResult:
    return qvtune.scaling_experiment(TINY)


@pytest.fixture(scope="module")
def folder(result: ScalingResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scaling(result, tmp_path_factory.mktemp("scaling") / "out").parent


def test_every_pair_of_rates_is_there(result: ScalingResult) -> None:
    cells = {(toy.attention, toy.value, toy.query_key_rate, toy.value_rate) for toy in result.toys}
    assert len(cells) == len(result.toys) == 27
    assert {(block.family, block.method) for block in result.blocks} == {
        (family, method) for family in ("bert", "llama", "gpt2") for method in ("full", "lora")
    }


def test_the_root_seed_decides(result: ScalingResult) -> None:
    same = qvtune.scaling_experiment(TINY | {"blocks": False})
    other = qvtune.scaling_experiment(TINY | {"blocks": False, "seed": 1})
    sizes = [np.stack([toy.sizes for toy in of.toys]) for of in (result, same, other)]
    assert np.array_equal(sizes[0], sizes[1])
    assert not np.array_equal(sizes[0], sizes[2])
    assert same.to_dict()["toy"] == result.to_dict()["toy"]
    assert (same.blocks, same.assumed) == ((), {})


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        qvtune.scaling_experiment(TINY | {"blocks": False, "seeds": 2, "steps": 1})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_lambda_is_fitted_to_the_ratio_of_both_sides(result: ScalingResult) -> None:
    for block in result.blocks:
        ratio = block.sizes["query_key"] / block.sizes["value"]
        fitted = fit_exponent(TINY["block_widths"], ratio[:, :, 1])
        assert block.exponents[1]["lambda"] == fitted
        slopes = [block.exponents[1][side].slope for side in ("query_key", "value")]
        assert fitted.slope == pytest.approx(slopes[0] - slopes[1], abs=1e-9)
        assert block.ratio[64] == pytest.approx(np.prod(1 / ratio[1, :, 0]) ** 0.5, rel=1e-9)
    full, lora = result.blocks[:2]
    assert result.assumed["bert"].slope == pytest.approx(
        full.exponents[0]["query_key"].slope - lora.exponents[0]["value"].slope, abs=1e-9
    )


def test_the_files_say_what_was_found(result: ScalingResult, folder: Path) -> None:
    names = {"scaling.json", "scaling.csv", "table.md", "report.html"}
    names |= {f"{name}.{kind}" for name in ("toy", "blocks", "ratio") for kind in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == names
    data = json.loads((folder / "scaling.json").read_text())
    assert data == json.loads(json.dumps(result.to_dict()))
    rows = pd.read_csv(folder / "scaling.csv")
    assert len(rows) == 27 * 3 * 3 * 2 + 6 * 3 * 2 * 2
    # From the raw sizes alone: the exponent of d1 in the last step of one cell.
    kept = (rows["kind"] == "linear attention, factor value") & (rows["query_key_rate"] == "n^-1")
    kept &= (rows["value_rate"] == "1") & (rows["step"] == 2)
    slope = np.polyfit(np.log(rows[kept]["width"]), np.log(rows[kept]["d1"]), 1)[0]
    (cell,) = (toy for toy in data["toy"] if list(toy.values())[:4] == ["linear", "factor", "n^-1", "1"])
    assert cell["steps"][1]["exponents"]["d1"]["slope"] == pytest.approx(slope, rel=1e-9)
    page = (folder / "report.html").read_text()
    assert f"{slope:+.2f} ± " in page
    assert f"{slope:+.2f} ± " in (folder / "table.md").read_text()
    assert page.count('class="plot"') == 9 + 6 + 1


def test_a_folder_is_written_again_but_no_other(result: ScalingResult, folder: Path, tmp_path: Path) -> None:
    before = json.loads((folder / "scaling.json").read_text())
    write_scaling(replace(result, blocks=(), assumed={}), folder)
    after = json.loads((folder / "scaling.json").read_text())
    assert (after["toy"], after["blocks"]) == (before["toy"], [])
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(qvtune.QVTuneError, match=r"is not empty and holds no scaling\.json"):
        write_scaling(result, tmp_path)


def test_the_command_prints_the_exponents(result: ScalingResult, capsys: pytest.CaptureFixture) -> None:
    assert main(["theory", "scaling", *WORDS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(result.to_dict()))


def test_the_command_prints_tables_and_writes(
    result: ScalingResult, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (toy,) = (t for t in result.toys if (t.attention, t.value, t.query_key_rate, t.value_rate) == THEOREM)
    assert main(["theory", "scaling", *WORDS, "--no-blocks", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Exponents of what step") == 3
    assert "η_QK = 1/n, η_V = 1: QK" in printed
    for symbol, side in (("scores", "query_key"), ("values", "value")):  # what the verdict rests on, before it
        exponent = exponent_text(toy.to_dict()["steps"][-1]["exponents"][symbol])
        assert f" {exponent} │ {toy.verdict[side]} " in printed
        assert f"Δ {symbol} {exponent}" in " ".join(printed.split())
    assert "BERT" not in printed
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "toy.png").is_file()


def test_seeds_that_scatter_give_no_verdict(result: ScalingResult) -> None:
    sizes = np.array([[1.0, 4.0, 0.3], [2.0, 0.5, 1.0], [0.2, 3.0, 2.5]])
    wide = fit_exponent(TINY["widths"], sizes)
    assert wide.low < -0.1 < 0.5 < wide.high or wide.low < -0.5 < 0.1 < wide.high
    found = verdict({"scores": wide, "values": fit_exponent(TINY["widths"], np.ones((3, 3)) * [[1], [4], [16]])})
    assert found == {"query_key": "undecided", "value": "blows up"}
    toys = tuple(replace(toy, verdict=found) for toy in result.toys)
    data = replace(result, toys=toys, blocks=(), assumed={}).to_dict()
    sides = [titled for titled in brief_tables(data) if titled.title.endswith("sides")]
    assert len(sides) == 3
    for titled in sides:
        assert "Undecided: the interval reaches" in titled.text
        assert [row[2] for row in titled.table.rows] == ["undecided"] * 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--widths", "64,128"], "--widths is '64,128'; an exponent takes at least 3 widths"),
        (["--widths", "64,256,128"], "widths go from small to large"),
        (["--widths", "64,64,128"], "each once"),
        (["--widths", "0,64,128"], "from small to large"),
        (["--widths", "64,wide,128"], "--widths"),
        (["--block-widths", "64,100,128"], "100 is no multiple of 32"),
        (["--optimizer", "adm"], "--optimizer is 'adm'; it should be 'adam' or 'sign'"),
        (["--seeds", "1"], "--seeds is '1'"),
        (["--steps", "0"], "--steps is '0'"),
        (["--step", "3"], "unknown option '--step'. Did you mean '--steps'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    try:
        code = main(["theory", "scaling", "--out", str(tmp_path / "out"), *words])
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr().err
    assert code == 2
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_seen_first(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    assert main(["theory", "scaling", "--out", str(tmp_path)]) == 2
    assert "is not empty and holds no scaling.json" in capsys.readouterr().err
    assert main(["theory", "scaling", "--out", str(tmp_path / "letter.txt")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_an_unknown_option_in_python() -> None:
    with pytest.raises(ConfigError, match=r"unknown option\. Did you mean 'seeds'\? 'qvtune theory scaling --help'"):
        qvtune.scaling_experiment({"seds": 3})
