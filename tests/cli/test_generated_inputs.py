"""Inputs that are wrong in ways nobody listed: made by rule from a seed, all through the command line.

Each ends with exit code 0, or with 2 and one message, within seconds, never with a traceback; of a run that was refused
nothing is left, and a run that was there is as it was.
"""

import gzip
import json
import random
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pandas
import pytest
import yaml
from tiny import make_reviews, save_tiny_bert, write_reviews

from qvtune.cli.main import main
from qvtune.training.config import TrainConfig

SECONDS = 60
# Given by every case itself, or asking for another machine or another program.
NOT_TRIED = {"model", "data", "out", "report_to", "trust_remote_code", "log_updates"}
WORDS = ["", " ", "x", "-1", "0", "nan", "1e308", "-inf", "9" * 400, "1_0", "٣", "[1", "true", "a,b", "/", "é" * 300]
VALUES: list[Any] = [None, [], {}, [[]], "x", -1, 0, 1e308, 10**400, True, {"a": {"b": [1]}}, "1_0", " "]
CONFIG_VALUES: list[Any] = [None, [], {}, "x", -1, 0, 3, 7.5, True, "9" * 50]
CONFIG_KEYS = [
    *("architectures", "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "max_position_embeddings", "type_vocab_size", "pad_token_id", "hidden_act", "id2label"),
    *("hidden_dropout_prob", "layer_norm_eps", "num_labels", "problem_type", "dtype", "tie_word_embeddings"),
]
LABELS: list[Any] = [
    None,
    "",
    " ",
    "1_0",
    "nan",
    "inf",
    10**400,
    -0.0,
    [1],
    {"a": 1},
    True,
    "\ud800",
    "a;b",
    "٣",
    "x" * 5000,
]
VERBS = ("evaluate --run @", "predict --run @ --data good.csv --out out.csv", "merge --run @ --out merged")


@dataclass
class Case:
    """Words of a command in a folder with files of its own; `@` stands for what was changed."""

    name: str
    words: str | list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    copied: str | None = None


def options(chance: random.Random) -> Iterator[Case]:
    for name, about in TrainConfig.model_fields.items():
        if name in NOT_TRIED or about.annotation is bool or bool in get_args(about.annotation):
            continue
        for value in chance.sample(WORDS, 2):
            words = ["train", "--model", "bert", "--data", "good.csv", "--out", "run"]
            words += [] if name == "max_steps" else ["--max-steps", "1"]
            yield Case(f"--{name} {value[:9]!r}", [*words, f"--{name.replace('_', '-')}={value}"])
        value = chance.choice(VALUES)
        text = yaml.safe_dump({"max_steps": 1, name: value})
        words = ["train", "--model", "bert", "--data", "good.csv", "--out", "run", "--config", "run.yaml"]
        yield Case(f"{name}: {str(value)[:9]}", words, {"run.yaml": text.encode()})


def damaged(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Return what was done to the content of a file, and what it is then."""
    place = chance.randrange(1, len(content))
    kinds = {
        "cut": content[:place],
        "a byte": content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :],
        "zeros": content[:place] + bytes(8) + content[place:],
        "no utf-8": content[:place] + b"\xff\xfe" + content[place:],
        "twice": content + content,
        "empty": b"",
        "brackets": b"[" * 5_000,
        "list": b"[]",
        "null": b"null",
        "gzip": gzip.compress(content)[:-9],
    }
    kind = chance.choice(list(kinds))
    return kind, kinds[kind]


def tables(chance: random.Random, place: Path) -> Iterator[Case]:
    rows = [{"text": text, "label": label} for text, label in make_reviews(24)]
    frame = pandas.DataFrame(rows)
    frame.to_csv(place / "t.csv", index=False)
    frame.to_csv(place / "t.tsv", index=False, sep="\t")
    frame.to_json(place / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(place / "t.parquet")
    command = "train --model bert --out run --max-steps 1 --data"
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        content = (place / f"t.{suffix}").read_bytes()
        for _ in range(7):
            kind, changed = damaged(content, chance)
            yield Case(f"{suffix}: {kind}", f"{command} new.{suffix}", {f"new.{suffix}": changed})
    for value in LABELS:
        others = [row | ({"label": value} if i % 3 == 0 else {}) for i, row in enumerate(rows)]
        lines = "".join(json.dumps(row) + "\n" for row in others)
        yield Case(f"label {str(value)[:9]!r}", f"{command} new.jsonl", {"new.jsonl": lines.encode()})
    for value in (None, "", 5, [], {"a": 1}, "\x00", "\ud800", "a" * 100_000):
        lines = "".join(json.dumps(row | {"text": value}) + "\n" for row in rows)
        yield Case(f"text {str(value)[:9]!r}", f"{command} new.jsonl", {"new.jsonl": lines.encode()})


def models(chance: random.Random, place: Path) -> Iterator[Case]:
    config = json.loads((place / "bert/config.json").read_text())
    command = "train --model @ --data good.csv --out run --max-steps 1"
    for key in CONFIG_KEYS:
        value = chance.choice(CONFIG_VALUES)
        text = json.dumps(config | {key: value})
        yield Case(f"config {key} {str(value)[:9]}", command, {"@/config.json": text.encode()}, "bert")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        for _ in range(4):
            kind, changed = damaged((place / "bert" / name).read_bytes(), chance)
            yield Case(f"{name}: {kind}", command, {f"@/{name}": changed}, "bert")


def runs(chance: random.Random, place: Path) -> Iterator[Case]:
    files = [p.relative_to(place / "run") for p in sorted((place / "run").rglob("*")) if p.is_file()]
    for file in files:
        if file.suffix not in (".json", ".yaml", ".safetensors", ".jsonl"):
            continue
        for verb in chance.sample(VERBS, 1):
            kind, changed = damaged((place / "run" / file).read_bytes(), chance)
            yield Case(f"{file} {kind}: {verb.split()[0]}", verb, {f"@/{file}": changed}, "run")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("generated")
    save_tiny_bert(place / "bert")
    write_reviews(place / "good.csv", 24)
    words = f"train --model {place}/bert --data {place}/good.csv --max-steps 2 --out {place}/run"
    assert main(words.split()) == 0
    return place


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def problem(case: Case, place: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Run a case in a folder of its own, and return what is wrong with how it ended."""
    folder.mkdir()
    for name in ("bert", "good.csv"):
        (folder / name).symlink_to(place / name)
    if case.copied:
        shutil.copytree(place / case.copied, folder / "changed")
    for name, content in case.files.items():
        (folder / name.replace("@", "changed")).write_bytes(content)
    before = set(folder.rglob("*"))
    words = [
        word.replace("@", "changed") for word in (case.words if isinstance(case.words, list) else case.words.split())
    ]
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch, time_limit(SECONDS):
        patch.chdir(folder)
        try:
            code: Any = main(words)
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            return f"{type(error).__name__}: {str(error)[:200]}"
    said = capsys.readouterr().err
    errors = re.findall(r"^error: .*", said, re.MULTILINE)
    if code == 0 and not errors:
        return None
    if code != 2:
        return f"code {code}: {said[-200:]}"
    if not errors or any(len(line) > 2_000 for line in errors):
        return f"messages: {said[-300:]}"
    left = set(folder.rglob("*")) - before
    return f"left {sorted(path.name for path in left)}" if left else None


@pytest.mark.parametrize("kind", ["options", "tables", "models", "runs"])
def test_generated(kind: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(f"{kind} 1")
    made = {"options": lambda: options(chance), "tables": lambda: tables(chance, place)}
    made |= {"models": lambda: models(chance, place), "runs": lambda: runs(chance, place)}
    cases = list(made[kind]())
    assert len(cases) >= {"options": 100, "tables": 50, "models": 30, "runs": 8}[kind]
    found = {case.name: problem(case, place, tmp_path / str(i), capsys) for i, case in enumerate(cases)}
    assert {name: what for name, what in found.items() if what} == {}
