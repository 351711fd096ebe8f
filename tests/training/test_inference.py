"""What a run saved, used without qvtune, and predictions that do not depend on how they are batched."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rounding import assert_near
from tiny import make_reviews, save_tiny_bert, save_tiny_llama, write_reviews

from qvtune.cli.main import main
from qvtune.data.glue import GLUE
from qvtune.data.records import text_dataset
from qvtune.data.tables import read_table
from qvtune.data.tokens import tokenize
from qvtune.errors import DataError
from qvtune.training.config import make_config
from qvtune.training.inference import (
    evaluate_run,
    load_run,
    predict_file,
    predict_glue,
    score_texts,
)
from qvtune.training.merging import merge_run
from qvtune.training.predictions import count_formulas
from qvtune.training.run import run

# Run by a fresh interpreter, which must not import qvtune.
PLAIN = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
merged, adapters, texts = json.loads(sys.stdin.read())
found = {}
def keep(name, folder, model):
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    found[name] = {"logits": model.eval()(**batch).logits.tolist(), "labels": model.config.id2label}
for name, folder in merged.items():
    keep(name, folder, AutoModelForSequenceClassification.from_pretrained(folder))
assert "peft.peft_model" not in sys.modules
from peft import PeftModel
for name, (base, folder) in adapters.items():
    padding = AutoTokenizer.from_pretrained(folder).pad_token_id
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, pad_token_id=padding)
    keep(name, folder, PeftModel.from_pretrained(model, folder))
assert "qvtune" not in sys.modules
print(json.dumps(found))
"""
BASES = ("bert", "llama")
TEXTS = [text for text, _ in make_reviews(12, seed=9)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("inference")
    save_tiny_bert(place / "bert")
    save_tiny_llama(place / "llama")
    write_reviews(place / "reviews.csv", 60)
    for model in BASES:
        for method in ("lora", "full"):
            places = {"model": place / model, "data": place / "reviews.csv", "out": place / f"{model}-{method}"}
            settings = {"method": method, "epochs": 12, "batch_size": 8, "lr": 8e-3, "roles": "qvo"}
            settings |= {"alpha": 16} if method == "lora" else {}
            settings |= {name: str(path) for name, path in places.items()}
            run(make_config(settings), Console(quiet=True))
    return place


def logits_of(place: Path, name: str, texts: list[str] = TEXTS, batch_size: int = 64) -> np.ndarray:
    loaded = load_run(place / name)
    return score_texts(loaded, tokenize(text_dataset([texts]), loaded.tokenizer, 64), batch_size)


@pytest.fixture(scope="module")
def plainly(place: Path) -> dict[str, dict]:
    """What plain transformers and PEFT compute of every run, in an interpreter that never imports qvtune."""
    merged = {f"{model}-{method} merged": place / f"{model}-{method}" for model in BASES for method in ("lora", "full")}
    for name, run_folder in merged.items():
        merge_run(load_run(run_folder), place / name)
    given = [
        {name: str(place / name) for name in merged},
        {model: [str(place / model), str(place / f"{model}-lora" / "adapter")] for model in BASES},
        TEXTS,
    ]
    words = [sys.executable, "-c", PLAIN]
    done = subprocess.run(words, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("model", BASES)
def test_adapter_in_plain_peft_gives_the_same_logits(model: str, place: Path, plainly: dict[str, dict]) -> None:
    ours = logits_of(place, f"{model}-lora")
    assert_near(ours, np.array(plainly[model]["logits"]))
    assert np.ptp(ours[:, 0]) > 1e-2


@pytest.mark.parametrize("name", ["bert-lora", "bert-full", "llama-lora", "llama-full"])
def test_merged_checkpoint_in_plain_transformers_gives_the_same_logits(
    name: str, place: Path, plainly: dict[str, dict]
) -> None:
    theirs = plainly[f"{name} merged"]
    assert_near(logits_of(place, name), np.array(theirs["logits"]))
    assert theirs["labels"] == {"0": "negative", "1": "positive"}


@pytest.mark.parametrize("name", ["bert-lora", "llama-lora"])
def test_predictions_do_not_depend_on_batch_size_or_padding(name: str, place: Path) -> None:
    texts = ["good", "a very dull film and the plot is here and the music was quite cold", "", "fine cast", *TEXTS]
    alone = logits_of(place, name, texts, batch_size=1)
    for batch_size in (2, 3, len(texts)):
        assert_near(logits_of(place, name, texts, batch_size), alone)
    assert_near(logits_of(place, name, texts[::-1], 5)[::-1].copy(), alone)
    assert np.ptp(alone[:, 0]) > 1e-2


def test_decoder_pads_with_an_existing_token_on_the_right(place: Path) -> None:
    loaded = load_run(place / "llama-lora")
    assert loaded.tokenizer.pad_token == "</s>"
    assert loaded.tokenizer.padding_side == "right"
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id == 2
    assert loaded.model.get_input_embeddings().weight.shape[0] == len(loaded.tokenizer)


def test_decoder_pools_at_the_last_token(place: Path) -> None:
    import torch

    loaded = load_run(place / "llama-lora")
    batch = loaded.tokenizer(["good film", "a very dull and cold plot"], padding=True, return_tensors="pt")
    inner = loaded.model.get_base_model()
    states = inner.model(**batch).last_hidden_state
    last = batch["attention_mask"].sum(dim=1) - 1
    expected = inner.score(states[torch.arange(2), last])
    assert_near(loaded.model(**batch).logits, expected)


def test_rows_without_any_text_are_counted(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "new.csv").write_text('text,id\n"",1\na film,2\n"  ",3\n')
    assert main(f"predict --run {place}/bert-lora --data {tmp_path}/new.csv --out {tmp_path}/out.jsonl".split()) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"Wrote 3 predictions to {tmp_path}/out.jsonl",
        "2 rows without any text: what is predicted for them means nothing.",
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_prediction_files(suffix: str, place: Path, tmp_path: Path) -> None:
    source = tmp_path / "new.csv"
    rows = [["id", "text"], ["7", 'a "good", film'], ["8", "cold\nplot"]]
    with open(source, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    loaded = load_run(place / "bert-lora")
    assert predict_file(loaded, source, tmp_path / f"out{suffix}") == (2, 0)
    logits = logits_of(place, "bert-lora", [row[1] for row in rows[1:]])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if suffix == ".jsonl":
        found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        values = [list(row["probabilities"].values()) for row in found]
        assert list(found[0]) == ["id", "text", "label", "probabilities"]
        assert list(found[0]["probabilities"]) == ["negative", "positive"]
    else:
        with open(tmp_path / "out.csv", newline="") as file:
            found = list(csv.DictReader(file))
        values = [[float(row["probability_negative"]), float(row["probability_positive"])] for row in found]
    assert_near(np.array(values), probabilities)
    assert [row["text"] for row in found] == [row[1] for row in rows[1:]]
    assert [row["label"] for row in found] == [["negative", "positive"][i] for i in logits.argmax(axis=1)]


def test_half_a_character_beside_the_text_is_refused_and_nothing_written(place: Path, tmp_path: Path) -> None:
    source = tmp_path / "new.jsonl"
    source.write_text('{"text": "good", "by": "me"}\n{"text": "bad", "by": "\\ud83d"}\n')
    with pytest.raises(DataError, match=r"new\.jsonl, line 2: column 'by' holds half a character"):
        predict_file(load_run(place / "bert-lora"), source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("safe", [False, True], ids=["as they are", "safe"])
def test_cells_that_a_spreadsheet_would_compute(safe: bool, place: Path, tmp_path: Path) -> None:
    cells = ["=1+1", "+x", "-y", "@SUM(A1)", "-0.5", "+3e2", "good" * 50_000, ""]
    source = tmp_path / "new.csv"
    with open(source, "w", newline="") as file:
        csv.writer(file).writerows([["=head", "text"], *([cell, "good"] for cell in cells)])
    predict_file(load_run(place / "bert-lora"), source, tmp_path / "out.csv", spreadsheet_safe=safe)
    assert count_formulas(tmp_path / "out.csv") == (0 if safe else 5)
    table = read_table(tmp_path / "out.csv")
    found = [table.columns[0], *(row[0] for row in table.rows)]
    start = "'" if safe else ""
    assert found == [f"{start}{cell}" for cell in ["=head", *cells[:4]]] + cells[4:]


def test_evaluation_of_a_run_repeats_its_result(place: Path) -> None:
    result = json.loads((place / "bert-lora" / "result.json").read_text())
    evaluated = evaluate_run(load_run(place / "bert-lora"))
    assert evaluated["metrics"]["accuracy"] == result["metrics"]["accuracy"]
    assert evaluated["examples"] == {"validation": 6}


def test_evaluation_on_a_file(place: Path, tmp_path: Path) -> None:
    rows = write_reviews(tmp_path / "other.csv", 30, seed=3)
    loaded = load_run(place / "bert-lora")
    evaluated = evaluate_run(loaded, data=str(rows))
    texts, labels = zip(*make_reviews(30, seed=3), strict=True)
    predicted = logits_of(place, "bert-lora", list(texts)).argmax(axis=1)
    right = [["negative", "positive"][i] == label for i, label in zip(predicted, labels, strict=True)]
    assert evaluated["metrics"]["accuracy"] == pytest.approx(sum(right) / 30)


def test_glue_submissions_of_a_pair_and_of_mnli(place: Path, tmp_path: Path) -> None:
    header = "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2"
    folder = tmp_path / "glue" / "MNLI"
    folder.mkdir(parents=True)

    def write(name: str, count: int, labelled: bool) -> None:
        lines = [header + ("\tlabel1\tgold_label" if labelled else "")]
        for i, (text, _) in enumerate(make_reviews(count)):
            cells = [str(i + 5), "p", "q", "g", "", "", "", "", text, "the film"]
            gold = ["entailment", "neutral", "contradiction"][i % 3]
            lines.append("\t".join(cells + ([gold, gold] if labelled else [])))
        (folder / name).write_text("\n".join(lines) + "\n")

    write("train.tsv", 30, True)
    for kind in ("matched", "mismatched"):
        write(f"dev_{kind}.tsv", 9, True)
        write(f"test_{kind}.tsv", 4, False)
    settings = {"model": str(place / "bert"), "data": "glue/mnli", "glue_dir": str(tmp_path / "glue"), "epochs": 1}
    result = run(make_config(settings | {"out": str(tmp_path / "run")}), Console(quiet=True))
    assert {"accuracy", "accuracy_matched", "accuracy_mismatched"} <= result["metrics"].keys()
    written = predict_glue(load_run(tmp_path / "run"), "mnli", tmp_path / "glue", tmp_path / "submission")
    assert [path.name for path in written] == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    lines = written[0].read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in lines[1:]] == ["5", "6", "7", "8"]
    assert {line.split("\t")[1] for line in lines[1:]} <= set(GLUE["mnli"].labels)


def test_a_tokenizer_with_code_of_its_own_is_read_as_it_was_trusted(tmp_path: Path) -> None:
    bert = save_tiny_bert(tmp_path / "bert")
    (bert / "own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n\nclass OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    settings = json.loads((bert / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    (bert / "tokenizer_config.json").write_text(json.dumps(settings))
    places = {"model": bert, "data": write_reviews(tmp_path / "reviews.csv", 40), "out": tmp_path / "run"}
    options = {name: str(path) for name, path in places.items()} | {"max_steps": 1, "trust_remote_code": True}
    run(make_config(options), Console(quiet=True))
    trained = load_run(tmp_path / "run")
    assert type(trained.tokenizer).__name__ == "OwnTokenizer"
    assert evaluate_run(trained)["metrics"]
