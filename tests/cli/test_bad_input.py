"""Every mistake that a user can make gets one readable message and exit code 2, and leaves nothing half-written."""

import itertools
import json
import os
import resource
import shutil
import struct
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset
from forked import Forked
from safetensors.torch import load_file, save_file
from tiny import make_reviews, save_tiny_bert, save_tiny_llama, write_reviews

from qvtune.cli.main import main
from qvtune.methods.table import METHODS
from qvtune.network import hub_is_reachable
from qvtune.training.folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # The hub's name is made one that never resolves (RFC 6761), so that the test needs no network and uses none.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    hub_is_reachable.cache_clear()
    yield
    hub_is_reachable.cache_clear()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, good data, and data that is wrong in every way."""
    place = tmp_path_factory.mktemp("bad")
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
    return place


def run_cli(words: str, place: Path, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    try:
        code = main([word.replace("@", str(place) + "/") for word in words.split()])
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().err


TRAIN = "train --model @bert --out @out"
GOOD = f"{TRAIN} --data @good.csv"
CASES = {
    "file missing": (f"{TRAIN} --data @nowhere.csv", "nowhere.csv: no such file"),
    "file empty": (f"{TRAIN} --data @empty.csv", "empty.csv: the file is empty"),
    "header only": (f"{TRAIN} --data @header.csv", "header.csv: has a header and no rows"),
    "binary": (f"{TRAIN} --data @binary.csv", "binary.csv, line 2: holds a zero byte"),
    "not UTF-8": (f"{TRAIN} --data @latin1.csv", "latin1.csv, line 3: byte 0xe9 is not UTF-8"),
    "unknown format": (f"{TRAIN} --data @novel.txt", "unknown format '.txt'"),
    "broken JSON": (f"{TRAIN} --data @broken.jsonl", "broken.jsonl, line 2: not JSON"),
    "broken Parquet": (f"{TRAIN} --data @broken.parquet", "broken.parquet: not a Parquet file"),
    "missing column": (f"{GOOD} --text-column txt", "no column 'txt'. Did you mean 'text'?"),
    "text column twice": (f"{GOOD} --text-column text --text-column text", "the text column 'text' was named twice"),
    "missing label column": (f"{GOOD} --label-column lable", "no column 'lable'. Did you mean 'label'?"),
    "duplicate column": (f"{TRAIN} --data @twice.csv", "column 'label' occurs 2 times"),
    "ragged row": (f"{TRAIN} --data @ragged.csv", "ragged.csv, line 12: has 3 fields where the header has 2"),
    "missing label": (f"{TRAIN} --data @nolabel.csv", "nolabel.csv, line 12: column 'label' is empty"),
    "unseen label": (f"{GOOD} --validation @unseen.csv", "unseen.csv, line 3: label 'furious' does not occur"),
    "one class": (f"{TRAIN} --data @oneclass.csv", "every row has the label 'x'"),
    "NaN label": (f"{TRAIN} --data @nan.csv", "nan.csv, line 4: label is nan"),
    "unknown GLUE task": (f"{TRAIN} --data glue/rtee", "unknown GLUE task 'rtee'. Did you mean 'rte'?"),
    "GLUE folder missing": (f"{TRAIN} --data glue/rte --glue-dir @nowhere", "no such folder"),
    "GLUE task folder missing": (f"{TRAIN} --data glue/rte --glue-dir @emptyfolder", "has no folder 'RTE'"),
    "unknown packaged data": (f"{TRAIN} --data pkg:imdbb", "unknown packaged data 'pkg:imdbb'. Did you mean 'imdb'?"),
    "class weights missing": (f"{GOOD} --class-weights @nowhere.yaml", "nowhere.yaml: cannot be read: No such file"),
    "class weight of an unknown label": (
        f"{GOOD} --class-weights @weights.yaml",
        "weights.yaml: label 'positiv' does not occur in the training data, which has negative, positive. Did you mean",
    ),
    "class weights of numbers": (
        f"{TRAIN} --data @scores.csv --task-type regression --class-weights balanced",
        "scores is a regression, which has no classes",
    ),
    "unknown role": (f"{GOOD} --roles qx", "unknown role 'x' in roles 'qx'"),
    "role twice": (f"{GOOD} --roles qq", "name a role twice"),
    "unknown target": (f"{GOOD} --target q_prj", "unknown projection 'q_prj'. Did you mean 'q_proj'?"),
    "unknown method": (
        f"{GOOD} --method lorra",
        f"{list(METHODS)[-2]!r} or {list(METHODS)[-1]!r}. Did you mean 'lora'?",
    ),
    "unknown model folder": ("train --model ./nowhere --out @out --data @good.csv", "no such folder"),
    "folder without a model": ("train --model @emptyfolder --out @out --data @good.csv", "has no config.json"),
    "broken configuration of a model": ("train --model @brokenconfig --out @out --data @good.csv", "cannot be loaded"),
    "truncated weights": ("train --model @truncated --out @out --data @good.csv", "cannot be loaded"),
    "unknown packaged model": ("train --model pkg:minilmm --out @out --data @good.csv", "Did you mean 'minilm'?"),
    "another tool's option": (
        f"{GOOD} --learning-rate 3",
        "unknown option '--learning-rate'. Did you mean '--lr'?",
    ),
    "tokenizer missing": (
        "train --model @wordless --out @out --data @good.csv",
        "its tokenizer knows 5 tokens, and the model 27",
    ),
    "all words unknown": (f"{TRAIN} --data @foreign.csv", "of the tokens of the training texts are unknown"),
    "a label per row": (f"{TRAIN} --data @ownlabels.csv", "each of the 12 rows has a label of its own"),
    "decimal comma": (f"{TRAIN} --data @comma.csv", "labels such as '0,5' in column 'label' have a decimal comma"),
    "validation is training": (f"{GOOD} --validation @good.csv", "good.csv: is the training file too"),
    "file without its suffix": (f"{TRAIN} --data @good", "good: no such file. Did you mean '"),
    "rank above the matrix": (f"{GOOD} --rank 33", "is 32 x 32: factors of rank 32 reach every change of it"),
    "rate of a role that does not train": (f"{GOOD} --key-lr 1e-3", "--key-lr is given, and --roles is qv"),
    "rank where there is none": (
        f"{GOOD} --method full --rank 4",
        "--rank is given, and --method full has no rank. Leave it out",
    ),
    "alpha where there is none": (f"{GOOD} --method vera --alpha 4", "--method vera has no alpha"),
    "dropout where there is none": (f"{GOOD} --method ia3 --dropout 0.1", "--method ia3 has no dropout"),
    "density of another method": (f"{GOOD} --density 0.1", "--density is given, and --method lora has no density"),
    "density above 1": (
        f"{GOOD} --method sift --density 1.5",
        "--density is '1.5'; it should be less than or equal to 1",
    ),
    "ratio of factors without factors": (f"{GOOD} --method galore --b-lr-ratio 4", "--method galore has no b lr ratio"),
    "roles of the head": (
        f"{GOOD} --method head --roles q",
        "--roles is given, and --method head trains the head alone",
    ),
    "λ of the head": (f"{GOOD} --method head --lr-ratio 2", "--lr-ratio is given, and --method head trains the head"),
    "a role's rate beside the head": (
        f"{GOOD} --method head --value-lr 1e-3",
        "--value-lr is given, and --method head",
    ),
    "one step for AdaLoRA": (f"{GOOD} --method adalora --max-steps 1", "there are 1. Give it at least 2"),
    "EVA with short batches": (
        f"{GOOD} --method eva --batch-size 1 --rank 30",
        "eva finds 30 directions in batches of more tokens",
    ),
    "GaLore's rank above the matrix": (f"{GOOD} --method galore --rank 33", "is 32 x 32: factors of rank 32 reach"),
    "biases that are not there": (
        "train --model @llama --out @out --data @good.csv --method bitfit",
        "bitfit trains biases, and the query projections of this model have none",
    ),
    "model is a file": (
        "train --model @good.csv --out @out --data @good.csv",
        "good.csv: is a file. Give a model folder",
    ),
    "plan with more tokens than positions": (
        "plan --model @bert --max-length 129",
        "this model reads 128 tokens at most",
    ),
    "truth for a number": (
        f"{GOOD} --config @yes.yaml",
        "yes.yaml, line 1: seed is 'True'; it should be a valid integer",
    ),
    "required option misspelled": ("evaluate --runs @out", "unknown option '--runs'. Did you mean '--run'?"),
    "required option left out": ("evaluate", "--run is required."),
    "batch size below 1": (
        "evaluate --run @out --batch-size 0",
        "--batch-size: is '0'; it should be a whole number of at",
    ),
    "range backwards": (f"{GOOD} --layers 1-0", "the range '1-0' runs backwards. Write 0-1"),
    "bad value in a configuration": (
        f"{GOOD} --config @badrate.yaml",
        "badrate.yaml, line 1: lr is -1; it should be greater than 0",
    ),
    "key twice in a configuration": (
        f"{GOOD} --config @twice.yaml",
        "twice.yaml: not YAML for options: 'lr' occurs a second time in line 2",
    ),
    "out below a file": (
        "train --model @bert --data @good.csv --out @good.csv/run",
        "is a file, so no folder can be made",
    ),
    "misspelled option": (f"{GOOD} --lr-ration 3", "unknown option '--lr-ration'. Did you mean '--lr-ratio'?"),
    "unknown command": ("trian --model x", "unknown command 'trian'. Did you mean 'train'?"),
    "unknown configuration key": (
        f"{GOOD} --config @unknown.yaml",
        "unknown.yaml, line 3: unknown option 'lr_ration'. Did you mean 'lr_ratio'?",
    ),
    "configuration is a list": (f"{GOOD} --config @list.yaml", "must hold one option a line"),
    "configuration is no YAML": (
        f"{GOOD} --config @broken.yaml",
        "broken.yaml: not YAML for options: line 2, column 1: while parsing a flow sequence, expected ',' or ']'",
    ),
    "configuration missing": (f"{GOOD} --config @nowhere.yaml", "cannot be read"),
    "required option": ("train --model @bert --data @good.csv", "--out is required"),
    "negative rate": (f"{GOOD} --lr -1e-4", "--lr is '-1e-4'; it should be greater than 0"),
    "zero rate": (f"{GOOD} --lr-ratio 0", "--lr-ratio is '0'; it should be greater than 0"),
    "rate not a number": (f"{GOOD} --lr fast", "--lr is 'fast'; it should be a valid number"),
    "rate infinite": (f"{GOOD} --lr inf", "--lr is 'inf'; it should be a finite number"),
    "two rates for the value": (f"{GOOD} --value-lr 1e-3 --lr-ratio 2", "both set the value's rate"),
    "layer that is not there": (f"{GOOD} --layers 7", "layer 7 does not exist: this model has 2 attention layers"),
    "more tokens than positions": (
        f"{GOOD} --max-length 129",
        "--max-length is 129; this model reads 128 tokens at most",
    ),
    "semicolons": (f"{TRAIN} --data @semicolon.csv", "its fields seem to be separated by ';'"),
    "semicolons and commas": (f"{TRAIN} --data @semicolon_commas.csv", "its fields seem to be separated by ';'"),
    "this folder": (f"{TRAIN} --data .", "is a folder"),
    "the folder above": (f"{TRAIN} --data ..", "is a folder"),
    "the root": (f"{TRAIN} --data /", "is a folder"),
    "layers not numbers": (f"{GOOD} --layers all", "neither a number nor a range"),
    "task against data": (f"{GOOD} --task rte", "--task means --data glue/rte"),
    "unknown tracker": (f"{GOOD} --report-to tensorbord", "'tensorbord'"),
    "out is a file": ("train --model @bert --data @good.csv --out @good.csv", "is a file"),
    "out holds something else": (
        "train --model @bert --data @good.csv --out @occupied",
        "is not empty and holds no run",
    ),
    "no network for a model": ("train --model someone/model --data @good.csv --out @out", "hub cannot be reached"),
    "no network for data": (f"{TRAIN} --data someone/data", "hub c"),
    "no network for GLUE": (f"{TRAIN} --data glue/rte", "hub c"),
    "run that is none": ("evaluate --run @emptyfolder", "is no run folder"),
    "label column twice": (f"{GOOD} --label-column label --label-column label", "'label' was named twice"),
    "option twice, joined": (f"{GOOD} --lr=1e-3 --lr 1e-3", "--lr is given twice."),
    "option and its opposite": (f"{GOOD} --fast --no-fast", "--fast and --no-fast are both given."),
    "option of a single command twice": ("evaluate --run @finished --run @other", "--run is given twice."),
    "rate beyond floats": (f"{GOOD} --lr 1e308", "--lr is '1e308'; it should be at most 1e+38."),
    "batch beyond integers": (f"{GOOD} --batch-size 99999999999999999999", "it should be at most 4.29497e+09."),
    "batch of a finished run": (f"evaluate --run @out --batch-size {'9' * 30}", "at least 1 and at most 4294967295"),
    "seed of 5,000 digits": (f"{GOOD} --seed {'9' * 5000}", "--seed is '9999"),
    "rank beyond matrices": (f"{GOOD} --method vera --rank 100000000", "--rank is '100000000'; it should be less than"),
    "range beyond layers": (f"{GOOD} --layers 0-99999999999", "'0-99999999999' is of more layers than any model has"),
    "empty data": (f"{TRAIN} --data=", "--data is ''; it is empty. Give a value, or leave the option out."),
    "empty model": ("train --model= --data @good.csv --out @out", "--model is ''; it is empty."),
    "empty out": ("train --model @bert --data @good.csv --out=", "--out is ''; it is empty."),
    "empty column": (f"{GOOD} --text-column=", "--text-column is ['']; it is empty."),
    "bytes in a path": (f"{TRAIN} --data @caf\udce9.csv", "caf\\udce9.csv' holds bytes that are not UTF-8"),
    "bytes in the path of a run": ("evaluate --run @caf\udce9", "holds bytes that are not UTF-8. Rename the file"),
    "NUL in a path": (
        f"{TRAIN} --config @nul.yaml",
        "nul.yaml, line 1: data is 'a\\x00.csv'; it holds '\\x00', which no name",
    ),
    "half a character in a path": (
        f"{TRAIN} --config @half.yaml",
        "half.yaml, line 1: data is 'a\\ud83d.csv'; it holds",
    ),
    "digits in a configuration": (
        f"{GOOD} --config @digits.yaml",
        "digits.yaml: not YAML for options: Exceeds the limit",
    ),
    "nesting in a configuration": (f"{GOOD} --config @deep.yaml", "deep.yaml: not YAML for options: it is nested too"),
    "alias bomb": (f"{GOOD} --config @bomb.yaml", "bomb.yaml: not YAML for options: its aliases unfold to more than"),
    "alias of itself": (f"{GOOD} --config @self.yaml", "self.yaml: not YAML for options: it holds itself by an alias"),
    "pipe as a configuration": (f"{GOOD} --config @pipe.yaml", "pipe.yaml: cannot be read: it is a pipe or a device"),
    "pipe as weights": (f"{GOOD} --class-weights @pipe.yaml", "pipe.yaml: cannot be read: it is a pipe or a device"),
    "pipe as roles": (f"{GOOD} --attention @pipe.yaml", "pipe.yaml"),
    "alias bomb as roles": (f"{GOOD} --attention @bomb.yaml", "bomb.yaml: cannot be read as YAML: its aliases unfold"),
    "nesting in weights": (f"{GOOD} --class-weights @deepw.json", "deepw.json: is nested too deeply"),
    "digits in JSONL": (f"{TRAIN} --data @digits.jsonl", "digits.jsonl, line 1: holds a number of too many digits"),
    "nesting in JSONL": (f"{TRAIN} --data @deep.jsonl", "deep.jsonl, line 1: is nested too deeply"),
    "a label beyond floats": (f"{TRAIN} --data @huge.jsonl", "huge.jsonl, line 2: label is inf; it must be a finite"),
    "not UTF-8 in Parquet": (f"{TRAIN} --data @bytes.parquet", "bytes.parquet, row 1: column 'text' holds bytes that"),
    "damaged saved folder": (f"{TRAIN} --data @saved", "saved: cannot be read as a folder saved by the datasets"),
    "out is a link to nothing": (
        "train --model @bert --data @good.csv --out @link",
        "nowhere, which is not there. Make that folder, or give another --out",
    ),
    "out is below a link to nothing": (
        "train --model @bert --data @good.csv --out @link/run",
        "nowhere, which is not there. Make that folder, or give another --out",
    ),
    "fp16 without a GPU": (f"{GOOD} --precision fp16", "fp16 needs a GPU"),
}


@pytest.mark.parametrize(("words", "message"), CASES.values(), ids=CASES.keys())
def test_mistake(words: str, message: str, place: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted(place.rglob("*"))
    code, error = run_cli(words, place, capsys)
    assert code == 2
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert sorted(place.rglob("*")) == before


def test_all_problems_of_a_configuration_are_told_at_once(place: Path, capsys: pytest.CaptureFixture) -> None:
    _, error = run_cli(f"{GOOD} --lr -1 --rank 0 --method lorra --roles x", place, capsys)
    assert all(name in error for name in ("--lr", "--rank", "--method", "--roles"))


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """A finished run over positive and negative."""
    out = place / "finished"
    assert main(f"train --model {place}/bert --data {place}/good.csv --epochs 1 --out {out}".split()) == 0
    return out


def test_out_holds_another_run(place: Path, finished: Path, capsys: pytest.CaptureFixture) -> None:
    before = (finished / "result.json").read_bytes()
    code, error = run_cli(
        "train --model @bert --data @good.csv --epochs 1 --lr 3e-4 --rank 4 --out @finished", place, capsys
    )
    assert code == 2
    assert "holds another run, with other rank (8 there, 4 here), lr (0.001 there, 0.0003 here)" in error
    assert (finished / "result.json").read_bytes() == before


@pytest.mark.parametrize("verb", ["evaluate --run @finished", "predict --run @finished --data @good.csv --out @p.csv"])
def test_adapter_does_not_fit_the_model(verb: str, place: Path, finished: Path, capsys: pytest.CaptureFixture) -> None:
    code, error = run_cli(f"{verb} --model @wider", place, capsys)
    assert code == 2
    assert "the adapter does not fit the model: it was made for bert with 2 attention layers of 32 to 32" in error
    assert not (place / "p.csv").exists()


def test_data_that_changed_are_not_taken_for_the_runs_own(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = write_reviews(tmp_path / "mine.csv", 40)
    train = f"train --model @bert --data {data} --epochs 1 --out {tmp_path}/run"
    assert run_cli(train, place, capsys)[0] == 0
    write_reviews(data, 40, seed=1)
    for words in (train, f"evaluate --run {tmp_path}/run"):
        code, error = run_cli(words, place, capsys)
        assert (code, "--data: mine.csv has changed" in error) == (2, True), error
    assert run_cli(f"evaluate --run {tmp_path}/run --data {data}", place, capsys)[0] == 0
    write_reviews(data, 40)
    assert run_cli(train, place, capsys)[0] == 0


def test_evaluation_wants_the_columns_of_the_run_and_says_what_it_trained_on(
    place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "other.csv").write_text("review,label\na good film,positive\n")
    code, error = run_cli(f"evaluate --run @finished --data {tmp_path}/other.csv", place, capsys)
    assert (code, "has no column 'text', which the run was trained on" in error) == (2, True), error
    assert main(f"evaluate --run {finished} --data {place}/good.csv".split()) == 0
    assert "good.csv is a file that the run was trained or tuned on" in capsys.readouterr().out


def test_a_run_in_place_of_a_model(place: Path, finished: Path, capsys: pytest.CaptureFixture) -> None:
    for folder in ("finished", "finished/adapter"):
        code, error = run_cli(f"train --model @{folder} --data @good.csv --out @out", place, capsys)
        assert (code, "qvtune merge --run" in error) == (2, True), error


def test_two_processes_cannot_train_in_one_folder(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = f"train --model @bert --data @good.csv --epochs 1 --out {tmp_path}/run"
    with RunFolder(tmp_path / "run").locked():
        code, error = run_cli(words, place, capsys)
    assert (code, "another process is training here" in error) == (2, True), error
    assert run_cli(words, place, capsys)[0] == 0


DAMAGE = {
    "plan": ("plan.json", "plan.json: is damaged, or was edited"),
    "adapter gone": ("adapter", "adapter: what the run trained is gone"),
    "adaptation": ("adapter/qvtune.json", "qvtune.json: is damaged, or was edited"),
    "weights": ("adapter/adapter_model.safetensors", "the adapter cannot be read"),
}


@pytest.mark.parametrize(("file", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_run(
    file: str, message: str, place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(finished, tmp_path / "damaged")
    path = tmp_path / "damaged" / file
    shutil.rmtree(path) if path.is_dir() else os.truncate(path, 20)
    code, error = run_cli(f"evaluate --run {tmp_path}/damaged --data @good.csv", place, capsys)
    assert (code, message in error) == (2, True), error
    assert "Traceback" not in error


def test_unwritable_cache_does_not_stop_a_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("QVTUNE_CACHE", str(place / "good.csv"))  # a file, in which no folder can be made
    assert run_cli(f"train --model @bert --data @good.csv --epochs 1 --out {tmp_path}/run", place, capsys)[0] == 0


def test_adapter_of_nan(place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(finished, tmp_path / "nan")
    file = tmp_path / "nan" / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "lora_B" in name)
    weights[name][0, 0] = float("nan")
    save_file(weights, file)
    code, error = run_cli(f"evaluate --run {tmp_path}/nan", place, capsys)
    assert code == 2
    assert f"adapter_model.safetensors: '{name}' holds numbers that are not finite" in error


def test_broken_adapter(place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(finished, tmp_path / "broken")
    os.truncate(tmp_path / "broken" / "adapter" / "adapter_model.safetensors", 1000)
    code, error = run_cli(f"evaluate --run {tmp_path}/broken", place, capsys)
    assert code == 2
    assert "the adapter cannot be read" in error


PREDICTIONS = {
    "no text column": ("--data @nan.jsonl --out @p.jsonl", "has no column 'text'"),
    "over another file": ("--data @good.csv --out @unseen.csv", "exists already. Give --out another name, or --overw"),
    "packaged data": ("--data pkg:imdb --out @p.csv", "predictions are made for a file, or for glue/TASK"),
    "over its input": ("--data @good.csv --out @good.csv", "is the file to predict"),
    "format": ("--data @good.csv --out @p.xlsx", "predictions are written as .jsonl or .csv"),
    "another task": ("--data glue/rte --glue-dir @emptyfolder --out @p.tsv", "the run was trained on good"),
    "folder missing": ("--data @nowhere.csv --out @p.csv", "no such file"),
}


@pytest.mark.parametrize(("words", "message"), PREDICTIONS.values(), ids=PREDICTIONS.keys())
def test_mistake_in_predict(
    words: str, message: str, place: Path, finished: Path, capsys: pytest.CaptureFixture
) -> None:
    (place / "nan.jsonl").write_text('{"txt": "a"}\n', encoding="utf-8")
    code, error = run_cli(f"predict --run @finished {words}", place, capsys)
    assert code == 2
    assert message in error


def test_merge_into_a_folder_in_use(place: Path, finished: Path, capsys: pytest.CaptureFixture) -> None:
    code, error = run_cli("merge --run @finished --out @occupied", place, capsys)
    assert (code, "exists already" in error) == (2, True)
    assert [path.name for path in (place / "occupied").iterdir()] == ["thesis.tex"]


@pytest.fixture(scope="module")
def classifier(place: Path, finished: Path) -> Path:
    """A plain classifier over negative and positive, by merging."""
    assert main(f"merge --run {finished} --out {place}/classifier".split()) == 0
    return place / "classifier"


LABELS = {
    "other names": ("text,label\na,up\nb,down\nc,up\nd,down\n", "its head is for 2 labels (negative, positive)"),
    "other number": ("text,label\na,x\nb,y\nc,z\nd,x\n", "and the data has 3 (x, y, z)"),
    "regression": ("text,label\na,0.5\nb,1.5\nc,2.5\n", "and the task is a regression"),
}


@pytest.mark.parametrize(("text", "message"), LABELS.values(), ids=LABELS.keys())
def test_labels_do_not_match_the_model(
    text: str, message: str, place: Path, classifier: Path, capsys: pytest.CaptureFixture
) -> None:
    (place / "labels.csv").write_text(text, encoding="utf-8")
    words = "train --model @classifier --data @labels.csv --epochs 1 --out @relabelled"
    code, error = run_cli(words, place, capsys)
    assert (code, message in error, "--new-head" in error) == (2, True, True)
    assert run_cli(f"{words} --new-head", place, capsys)[0] == 0
    shutil.rmtree(place / "relabelled")


def test_labels_of_the_model_keep_their_ids(
    place: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = json.loads((classifier / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "POSITIVE", "1": "NEGATIVE"}, {"POSITIVE": 0, "NEGATIVE": 1}
    shutil.copytree(classifier, tmp_path / "turned")
    (tmp_path / "turned" / "config.json").write_text(json.dumps(config))
    code, error = run_cli(
        f"train --model {tmp_path}/turned --data @good.csv --epochs 1 --out {tmp_path}/run", place, capsys
    )
    assert code == 0, error
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["task"]["labels"] == ["positive", "negative"]


def test_diverged_run_stops_with_code_3_and_keeps_its_checkpoint(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    words = "train --model @bert --data @good.csv --method full --batch-size 4 --epochs 4 --eval-steps 1"
    # Warmup starts at a rate of zero, so the first step is harmless, and no model survives the second.
    code, error = run_cli(
        f"{words} --logging-steps 1 --max-grad-norm 0 --lr 1e38 --schedule constant --warmup 0.9 --out {out}",
        place,
        capsys,
    )
    assert code == 3, error
    assert "diverged: " in error
    assert "is no longer finite at step 2 of 36" in error
    assert f"The last good checkpoint is {out}/checkpoints/checkpoint-1." in error
    assert (out / "checkpoints" / "checkpoint-1" / "trained.safetensors").exists()
    assert "Traceback" not in error
    assert not (out / "result.json").exists()


def limit_file_size() -> None:
    # Writing past the limit fails as on a full disk, where a test may make none.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_full_disk(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"train --model {place}/wider --data {place}/good.csv --epochs 1 --rank 64 --out {tmp_path}/run"
    monkeypatch.setenv("QVTUNE_CACHE", str(tmp_path / "cache"))
    process = Forked(words.split(), limit_file_size)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "cannot be written" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "result.json").exists()
    assert not list((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    assert main(words.split()) == 0
