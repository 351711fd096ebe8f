"""`qvtune theory bound`: what it prints, the folder that it writes, and what it refuses."""

import json
import math
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny import save_tiny_bert, tiny_llama_config, write_reviews

from qvtune.cli.main import main

EVIL = "<script>alert('x')</script>&"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a configuration alone, a finished run, one of another method, and one that has not finished."""
    place = tmp_path_factory.mktemp("bound")
    save_tiny_bert(place / "bert")
    write_reviews(place / "reviews.csv", 40)
    tiny_llama_config().save_pretrained(place / EVIL.replace("/", ""))
    train = f"train --model {place}/bert --data {place}/reviews.csv --epochs 1 --rank 4 --out {place}"
    assert main(f"{train}/run".split()) == 0
    assert main(f"{train}/dora --method dora".split()) == 0
    (place / "unfinished").mkdir()
    (place / "unfinished" / "config.yaml").write_text((place / "run" / "config.yaml").read_text())
    (place / "empty").mkdir()
    return place


@pytest.fixture
def output(capsys: pytest.CaptureFixture) -> Iterator[pytest.CaptureFixture]:
    capsys.readouterr()  # what the fixture printed
    return capsys


class Reader(HTMLParser):
    """Collects tags and the text of everything but scripts and styles."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] not in ("script", "style"):
            self.text.append(data.strip())


def test_json_of_a_configuration_alone(place: Path, output: pytest.CaptureFixture) -> None:
    model = str(place / EVIL.replace("/", "") / "config.json")
    assert main(["theory", "bound", "--model", model, "--examples", "1000", "--rank", "2", "--json"]) == 0
    record = json.loads(output.readouterr().out)
    numbers = 2 * 2 * ((32 + 32) + (32 + 16))
    assert record["model"] == model
    assert record["numbers"] == numbers
    assert record["bound"] == pytest.approx(math.sqrt(2 / 1000 * 32 * numbers), rel=1e-14)
    assert record["ratio"] == pytest.approx(math.sqrt((64 + 48) / (64 + 48 + 48)), rel=1e-14)
    assert [term["role"] for term in record["terms"]] == ["query", "value"] * 2
    assert record["by_role"]["value"]["share"] == pytest.approx(48 / 112)
    assert [record[name] for name in ("roles", "method", "rank", "examples", "bits", "sub_gaussian")] == [
        "qv", "lora", 2, 1000, 32, 1.0,
    ]  # fmt: skip


def test_every_option_reaches_the_bound(place: Path, output: pytest.CaptureFixture) -> None:
    words = "--roles qkv --layers 1 --method full --bits 16 --sub-gaussian 2.5 --examples 64"
    assert main(f"theory bound --model {place}/bert {words}".split()) == 0
    out = output.readouterr().out
    bound = math.sqrt(2 * 2.5**2 / 64 * 16 * 3 * 32 * 32)
    assert f"= {bound:.5g}, with 3,072 numbers in 3 matrices" in out
    assert "Training query, key and value of" in out
    assert "in full on N = 64 examples, q = 16 bits a number, R = 2.5" in out
    assert "1 of 32 x 32" in out
    assert "0.8165 of that for query, key and value" in out


@pytest.mark.parametrize(("roles", "is_shown"), [("qv", True), ("qkv", True), ("o", False), ("v", False)])
def test_the_ratio_is_shown_where_these_roles_train(
    roles: str, is_shown: bool, place: Path, output: pytest.CaptureFixture
) -> None:
    assert main(f"theory bound --model {place}/bert --roles {roles} --examples 64".split()) == 0
    assert ("QV over QKV" in output.readouterr().out) is is_shown


def test_a_small_bound_is_not_called_empty(place: Path, output: pytest.CaptureFixture) -> None:
    assert main(f"theory bound --model {place}/bert --examples 100000 --rank 1 --bits 4".split()) == 0
    assert "says nothing of the error's size" not in output.readouterr().out
    assert main(f"theory bound --model {place}/bert --examples 100 --rank 1 --bits 4".split()) == 0
    assert "says nothing of the error's size" in output.readouterr().out


def test_folder_of_a_model(place: Path, output: pytest.CaptureFixture, tmp_path: Path) -> None:
    model, out = str(place / EVIL.replace("/", "")), tmp_path / "bound"
    words = ["theory", "bound", "--model", model, "--examples", "1000", "--rank", "3", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    printed = output.readouterr()
    assert json.loads(printed.out) == json.loads((out / "bound.json").read_text())
    assert str(out / "report.html") in printed.err
    assert sorted(path.name for path in out.iterdir()) == ["bound.json", "bound.png", "bound.svg", "report.html"]
    assert (out / "bound.png").read_bytes().startswith(b"\x89PNG")
    assert "mathdefault" not in (out / "bound.svg").read_text()  # TeX, which a picture would show as it stands
    reader = Reader(out / "report.html")
    assert f"Theorem 1 on {model}" in reader.text
    # Vega, the colours, the page's own script, and three figures; none of the model's name.
    assert reader.tags.count("script") == 6
    assert {"model.layers.1.self_attn", "16", "Symbols", "By role", "bound over q"} <= set(reader.text)
    before = (out / "report.html").read_bytes()
    assert main([*words, "--json"]) == 0  # a bound may be written over a bound
    assert (out / "report.html").read_bytes() == before


def test_this_models_point_is_marked(place: Path, tmp_path: Path, output: pytest.CaptureFixture) -> None:
    out = tmp_path / "bound"
    assert main(f"theory bound --model {place}/bert --examples 1000 --rank 3 --roles k --out {out} --json".split()) == 0
    bound = json.loads(output.readouterr().out)["bound"]
    page = (out / "report.html").read_text(encoding="utf-8")
    figures = [
        json.loads(part.partition(">")[2].partition("</script>")[0]) for part in page.split('class="figure"')[1:]
    ]
    symbols = set()
    for figure, here in zip(figures, (1000, 3, 32), strict=True):
        lines = {row["series"]: row for row in figure["data"]["values"]}
        assert (lines["here"]["x"], lines["here"]["y"]) == ([here], [bound])
        own = dict(zip(lines["k"]["x"], lines["k"]["y"], strict=True))
        assert own[here] == bound
        assert {"qv", "qkv"} <= lines.keys()
        qv = dict(zip(lines["qv"]["x"], lines["qv"]["y"], strict=True))
        assert qv[here] == pytest.approx(math.sqrt(2) * bound)
        shapes = next(layer["encoding"]["shape"] for layer in figure["layer"] if "shape" in layer["encoding"])
        drawn = zip(shapes["scale"]["range"], shapes["scale"]["domain"], strict=True)
        symbols |= {(symbol, name) for symbol, name in drawn if symbol != "stroke"}  # of a line without marks
    assert len(symbols) == len({symbol for symbol, _ in symbols}) == 5  # k, qv, qkv, here, and full training
    full = {row["series"]: row for row in figures[1]["data"]["values"]}["k, full"]["y"]
    assert full == [pytest.approx(math.sqrt(2 / 1000 * 32 * 2 * 32 * 32))] * 2


def test_bound_and_gap_of_a_run(place: Path, tmp_path: Path, output: pytest.CaptureFixture) -> None:
    out = tmp_path / "bound"
    assert main(f"theory bound --run {place}/run --sub-gaussian 2 --out {out} --json".split()) == 0
    record = json.loads(output.readouterr().out)
    # 40 reviews, of which 4 are held out.
    assert record["bound"] == pytest.approx(math.sqrt(2 * 4 / 36 * 32 * 4 * 4 * (32 + 32)), rel=1e-14)
    result = json.loads((place / "run" / "result.json").read_text())
    measured = record["measured"]
    assert measured["new_loss"] == pytest.approx(result["metrics"]["loss"], abs=1e-3)
    assert measured["gap"] == measured["new_loss"] - measured["train_loss"]
    assert measured["looseness"] is None  # so few reviews tell no gap from 0
    largest = abs(measured["gap"]) + 1.96 * measured["standard_error"]
    assert measured["least_looseness"] == pytest.approx(record["bound"] / largest, rel=1e-14)
    text = " ".join(Reader(out / "report.html").text)
    assert f"a gap of {measured['gap']:.4f}" in text
    assert "Bound and measurement" in text
    assert "It cannot be told from 0, and so how loose the bound is cannot be told either" in text
    assert "R is taken to be 2." in text
    assert not (place / "run" / "bound.json").exists()


MODEL = "theory bound --model @bert --examples 100"
CASES = {
    "no examples": (
        "theory bound --model @bert --examples 0",
        "--examples is '0'; it should be greater than or equal to 1",
    ),
    "examples left out": ("theory bound --model @bert", "--examples is required"),
    "neither model nor run": ("theory bound", "error: --model is required.\nerror: --examples is required."),
    "no rank": (f"{MODEL} --rank 0", "--rank is '0'; it should be greater than or equal to 1"),
    "rank above the matrix": (f"{MODEL} --rank 33", "Give a rank of 32 at most, or the method 'full'."),
    "rank in full": (f"{MODEL} --method full --rank 8", "rank is 8, and method 'full' has no rank. Leave it out"),
    "no bits": (f"{MODEL} --bits 0", "--bits is '0'"),
    "infinite loss": (f"{MODEL} --sub-gaussian inf", "--sub-gaussian is 'inf'; it should be a finite number"),
    "unknown role": (f"{MODEL} --roles qx", "unknown role 'x' in roles 'qx'"),
    "layer that is not there": (f"{MODEL} --layers 5", "layer 5 does not exist: this model has 2 attention layers"),
    "another method": (f"{MODEL} --method dora", "method is 'dora'; Theorem 1 counts the numbers in LoRA's factors"),
    "unknown method": (f"{MODEL} --method lorra", "unknown method 'lorra'. Did you mean 'lora'?"),
    "an option that does not count": (f"{MODEL} --alpha 8", "unknown option '--alpha'"),
    "model that is not there": ("theory bound --model ./nowhere --examples 9", "no such folder"),
    "no run": ("theory bound --run @empty", "is no run folder"),
    "a run that is not there": ("theory bound --run @nowhere", "is no run folder"),
    "unfinished run": ("theory bound --run @unfinished", "the run has not finished"),
    "run of another method": ("theory bound --run @dora", "method is 'dora'"),
    "options of a run": ("theory bound --run @run --rank 8", "--rank is given, and --run says what trained"),
    "loss of a run": ("theory bound --run @run --sub-gaussian 0", "--sub-gaussian is '0'; it should be greater than 0"),
    "out is a run": (f"{MODEL} --out @run", "is not empty and holds no bound.json"),
    "out is a file": (f"{MODEL} --out @reviews.csv", "is a file. Give --out a folder"),
    "no sub-verb": ("theory", "COMMAND is required"),
    "unknown sub-verb": ("theory bond", "unknown command 'bond'. Did you mean 'bound'?"),
}


@pytest.mark.parametrize(("words", "message"), CASES.values(), ids=CASES.keys())
def test_mistake(words: str, message: str, place: Path, output: pytest.CaptureFixture) -> None:
    before = sorted(place.rglob("*"))
    try:
        code = main([word.replace("@", f"{place}/") for word in words.split()])
    except SystemExit as stop:
        code = stop.code
    error = output.readouterr().err
    assert code == 2
    assert message in error
    assert all(line.startswith("error: ") for line in error.splitlines())
    assert "Traceback" not in error
    assert sorted(place.rglob("*")) == before
