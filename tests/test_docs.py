"""Every example of the documentation runs: `bash` blocks of qvtune commands, `python` blocks, `yaml` configurations."""

import csv
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import Dataset
from shallow import two_layers

import qvtune
from qvtune.cli import theory
from qvtune.cli.main import VERBS, main
from qvtune.conformance import __main__ as conformance
from qvtune.methods.table import METHODS
from qvtune.roles.declare import read_declaration
from qvtune.tasks.load import load_data
from qvtune.tasks.options import DataOptions
from qvtune.training import model
from qvtune.training.config import TrainConfig, read_config

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "README.md"])
# Pages whose examples train many runs, or load a larger model many times: they get the first two layers of it.
MANY_RUNS = dict.fromkeys(("suggest", "sweep", "compare", "tutorial-first-run", "tutorial-grid"), "minilm") | {
    "conversations": "smollm2"
}
# Packages without which an example is left out.
OPTIONAL = ("onnxruntime", "onnxscript", "fastapi", "httpx")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _methods() -> Iterator[None]:
    """Leave the table of methods as it was; a page registers one."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the pages speak of, made of real reviews."""
    monkeypatch.chdir(tmp_path)
    data = load_data(DataOptions(data="pkg:rotten_tomatoes", max_train_samples=2000, max_eval_samples=500), 0)
    train, validation = (
        shortest(split, size) for split, size in ((data.train, 40), (data.evaluation["validation"], 20))
    )
    for name, split in (("reviews.csv", train), ("more.csv", validation)):
        write_csv(tmp_path / name, [["text", "label"], *([text, data.task.labels[label]] for text, label in split)])
    write_csv(tmp_path / "unlabelled.csv", [["text"], *([text] for text, _ in validation)])
    texts = [text for text, _ in train]
    topics = [
        {"praise": label == 1, "pair": len(text.split()) == 3, "even": len(text) % 2 == 0} for text, label in train
    ]
    names = [";".join(name for name, is_there in found.items() if is_there) for found in topics]
    write_csv(tmp_path / "topics.csv", [["text", "topics"], *zip(texts, names, strict=True)])
    # Long words as if they were names of places.
    sentences = [text.split() for text in texts]
    tags = [["B-place" if len(word) > 6 else "O" for word in words] for words in sentences]
    rows = [zip(*row, strict=True) for row in zip(sentences, tags, strict=True)]
    lines = ["".join(f"{word} {tag}\n" for word, tag in row) for row in rows]
    (tmp_path / "places.conll").write_text("\n".join(lines))
    pairs = [{"left": texts[i], "right": texts[i - 1], "likeness": i / 10 + 0.05} for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    said = [("Is the shop open on Sunday?", "No, it is closed."), ("When does it open?", "At nine."), ("Hi", "Hello.")]
    talks = [[{"role": "user", "content": asked}, {"role": "assistant", "content": words}] for asked, words in said * 4]
    for name, rows in (("talks", talks), ("questions", [talk[:1] for talk in talks[:2]])):
        lines = (json.dumps({"messages": row}) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


def shortest(split: Dataset, size: int) -> list[tuple[str, int]]:
    """Return so many short texts with their labels, half of each: they train in seconds."""
    rows = sorted(zip(split["text"], split["label"], strict=True), key=lambda row: (len(row[0]), row))
    halves = [[row for row in rows if row[1] == label][: size // 2] for label in (0, 1)]
    return [row for pair in zip(*halves, strict=True) for row in pair]


def write_csv(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem in MANY_RUNS:
        small = two_layers(MANY_RUNS[page.stem], place / "models")
        monkeypatch.setattr(model, "locate_model", lambda name: (small, None))
    monkeypatch.syspath_prepend(str(place))
    left_out = []
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python" and (missing := missing_packages(text)):
            left_out += missing
        elif language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == "qvtune":
                    assert main(words[1:]) == 0, line
        elif language == "python" and text.startswith("# server.py"):
            (place / "server.py").write_text(text)
        elif language == "python":
            exec(compile(text, str(page), "exec"), {"__name__": page.stem})
        elif language == "yaml" and text.startswith("# roles.yaml"):
            (place / "roles.yaml").write_text(text)
            assert read_declaration(place / "roles.yaml")[1] > 0
        elif language == "yaml" and text.startswith("# weights.yaml"):
            (place / "weights.yaml").write_text(text)
        elif language == "yaml":
            (place / "run.yaml").write_text(text)
            verb = re.match(r"# qvtune (train|sweep) --config", text)[1]
            also = ("axes", "runs") if verb == "sweep" else ()
            assert read_config(place / "run.yaml", also).keys() <= {*TrainConfig.model_fields, *also}
        else:
            assert language == "text", f"{page.name}: '{language}' blocks are not run; call them text"
    sys.modules.pop("server", None)
    if left_out:
        pytest.skip(f"all other examples of {page.name} ran; not installed: {', '.join(sorted(set(left_out)))}")


def missing_packages(text: str) -> list[str]:
    """The packages that an example needs beyond what it imports: torch's exporter and the test client have one each."""
    needed = {name for name in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE) if name in OPTIONAL}
    needed |= {"onnxscript"} if "torch.onnx" in text else set()
    needed |= {"fastapi", "httpx"} if "TestClient" in text else set()
    return [name for name in sorted(needed) if importlib.util.find_spec(name) is None]


def test_every_public_name_is_in_the_documentation() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in qvtune.__all__ if f"`{name}" not in text and f"qvtune.{name}" not in text] == []


def test_pages_import_the_public_names_alone() -> None:
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language == "python":
                assert not re.search(r"(from|import) qvtune\.", text), page.name


def test_places_in_the_code_are_where_the_pages_say() -> None:
    tool = [sys.executable, str(REPOSITORY / "tools" / "lines.py"), "--check"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_option_named_in_the_documentation_exists(capsys: pytest.CaptureFixture) -> None:
    known = set()
    for words in [*([verb] for verb in VERBS), *(["theory", verb] for verb in theory.VERBS)]:
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    known |= set(re.findall(r"--[a-z][a-z-]+", conformance.build_parser().format_help()))
    foreign = {"--nproc-per-node", "--no-deps", "--page", "--store", "--force-reinstall", "--index-url"}
    foreign |= {"--enable-lora", "--max-lora-rank", "--lora-modules"}  # vLLM's
    named = {o for page in PAGES for o in re.findall(r"(?<!-)--[a-z][a-z-]+", page.read_text(encoding="utf-8"))}
    assert named - known - foreign == set()
