"""What tests of mistakes share: a folder with all that is wrong, and commands over it."""

import itertools
import os
import shutil
import struct
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset
from tiny import make_reviews, save_tiny_bert, save_tiny_llama, write_reviews

from qvtune.cli.main import main


def make_place(place: Path) -> None:
    """Fill a folder with tiny models, good data, and data that is wrong in every way."""
    save_tiny_bert(place / "bert")
    save_tiny_bert(place / "wider", width=64)
    save_tiny_llama(place / "llama")
    write_reviews(place / "good.csv", 40)
    for name, file, size in (("brokenconfig", "config.json", 40), ("truncated", "model.safetensors", 5000)):
        shutil.copytree(place / "bert", place / name)
        os.truncate(place / name / file, size)
    shutil.copytree(place / "bert", place / "wordless", ignore=shutil.ignore_patterns("tokenizer*"))
    rows = "".join(f"{text},{label}\n" for text, label in make_reviews(10))
    texts = {
        "empty.csv": "",
        "header.csv": "text,label\n",
        "twice.csv": "text,label,label\na,b,c\n",
        "ragged.csv": f"text,label\n{rows}one,two,three\n",
        "nolabel.csv": f"text,label\n{rows}a good film,\n",
        "oneclass.csv": "text,label\na,x\nb,x\nc,x\n",
        "semicolon.csv": "text;label\na good film;x\n",
        "semicolon_commas.csv": "text;label\na good, long film;x\n",
        "nan.csv": "text,label\na,0.5\nb,1.5\nc,nan\n",
        "unseen.csv": "text,label\na good film,positive\na bad film,furious\n",
        "broken.jsonl": '{"text": "a", "label": "x"}\n{"text": "b", \n',
        "foreign.csv": "text,label\n" + "".join(f"xyz{i} vwz{i},{'ab'[i % 2]}\n" for i in range(20)),
        "ownlabels.csv": "text,label\n" + "".join(f"a film {i},label{i}\n" for i in range(12)),
        "comma.csv": 'text,label\na,"0,5"\nb,"1,5"\nc,"0,5"\n',
        "scores.csv": "text,label\n" + "".join(f"a film {i},{i}.5\n" for i in range(12)),
        "weights.yaml": "negative: 1\npositiv: 2\n",
        "yes.yaml": "seed: yes\n",
        "badrate.yaml": "lr: -1\n",
        "twice.yaml": "lr: 1\nlr: 2\n",
        "unknown.yaml": "model: pkg:minilm\nlearning_rat: 1e-3\nlr_ration: 4\n",
        "list.yaml": "- 1\n- 2\n",
        "broken.yaml": "lr: [1\n",
    }
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")
    names = "abcdefghi"
    bomb = [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise(names)]
    hostile = {
        "nul.yaml": 'data: "a\\0.csv"\n',
        "half.yaml": 'data: "a\\ud83d.csv"\n',
        "digits.yaml": f"seed: {'9' * 5000}\n",
        "deep.yaml": f"lr: {'[' * 5000}{']' * 5000}\n",
        "bomb.yaml": f"a: &a [{','.join('x' * 9)}]\n" + "".join(bomb),
        "self.yaml": "lr: &a [*a]\n",
        "deepw.json": f'{{"negative": {"[" * 100_000}{"]" * 100_000}}}',
        "digits.jsonl": f'{{"text": "a", "label": {"9" * 5000}}}\n',
        "deep.jsonl": f'{{"text": "a", "label": {"[" * 100_000}{"]" * 100_000}}}\n',
        "huge.jsonl": f'{{"text": "a", "label": 1.5}}\n{{"text": "b", "label": {10**400}}}\n',
    }
    for name, text in hostile.items():
        (place / name).write_text(text, encoding="utf-8")
    os.symlink(place / "nowhere", place / "link")
    os.mkfifo(place / "pipe.yaml")
    buffers = [None, pyarrow.py_buffer(struct.pack("<2i", 0, 2)), pyarrow.py_buffer(b"a\xff")]
    texts_of_bytes = pyarrow.Array.from_buffers(pyarrow.string(), 1, buffers)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts_of_bytes, "label": ["x"]}), place / "bytes.parquet")
    Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]}).save_to_disk(str(place / "saved"))
    (place / "saved" / "dataset_info.json").write_text("[]")
    (place / "binary.csv").write_bytes(b"text,label\n\x00\x01\x02,x\n")
    (place / "latin1.csv").write_bytes("text,label\nfine,x\ncaf\xe9,y\n".encode("latin-1"))
    (place / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    (place / "novel.txt").write_text("text", encoding="utf-8")
    (place / "occupied").mkdir()
    (place / "occupied" / "thesis.tex").write_text("mine", encoding="utf-8")
    (place / "emptyfolder").mkdir()


def run_cli(words: str, place: Path, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Run a command over the folder, whose files the words name with an @, and return its exit code and its error."""
    try:
        code = main([word.replace("@", str(place) + "/") for word in words.split()])
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().err
