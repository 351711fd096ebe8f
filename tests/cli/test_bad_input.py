"""Every mistake that a user can make gets one readable message and exit code 2, and leaves nothing half-written."""

from pathlib import Path

import pytest
from mistakes import run_cli

from qvtune.methods.table import METHODS

pytestmark = pytest.mark.usefixtures("no_network")

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
