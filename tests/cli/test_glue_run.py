"""A run on a GLUE task, evaluated and asked for predictions on files as GLUE users have them."""

import json
from pathlib import Path

import pytest
from made_up_glue import write_glue
from tiny import make_reviews, save_tiny_bert

from qvtune.cli.main import main

PAIR = "the film was good"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("glue")
    save_tiny_bert(place / "bert")
    write_glue(place / "glue", "rte", "sst2", "cola")
    for task in ("rte", "cola"):
        words = f"train --model {place}/bert --data glue/{task} --glue-dir {place}/glue --epochs 2 --out {place}/{task}"
        assert main(words.split()) == 0
    folder = place / "glue" / "QNLI"
    folder.mkdir()
    for file in ("train.tsv", "dev.tsv"):
        rows = [f"{i}\t{text}\t{PAIR}\tentailment\n" for i, (text, _) in enumerate(make_reviews(6, 5))]
        (folder / file).write_text("index\tquestion\tsentence\tlabel\n" + "".join(rows))
    (place / "glue" / "RTE" / "test.tsv").write_text(f"index\tsentence1\tsentence2\n7\tgood\t{PAIR}\n9\tbad\t{PAIR}\n")
    (place / "hub.csv").write_text(f"sentence1,sentence2,label\ngood,{PAIR},0\nbad,{PAIR},1\n")
    (place / "odd.csv").write_text(f"left,right,label\ngood,{PAIR},entailment\n")
    return place


def evaluated(words: str, place: Path, capsys: pytest.CaptureFixture) -> dict:
    assert main(f"evaluate {words} --json".replace("@", f"{place}/").split()) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_evaluated_on_files_of_its_task(place: Path, capsys: pytest.CaptureFixture) -> None:
    result = json.loads((place / "rte" / "result.json").read_text())
    dev = evaluated("--run @rte --data @glue/RTE/dev.tsv", place, capsys)
    assert dev["examples"] == {"file": 16}
    assert dev["metrics"]["accuracy"] == result["metrics"]["accuracy"]
    cola = evaluated("--run @cola --data @glue/CoLA/dev.tsv", place, capsys)
    expected = json.loads((place / "cola" / "result.json").read_text())["metrics"]["matthews_correlation"]
    assert cola["metrics"]["matthews_correlation"] == pytest.approx(expected)
    assert evaluated("--run @rte --data @hub.csv", place, capsys)["notes"][0].startswith("Labels that are numbers")
    named = evaluated("--run @rte --data @odd.csv --text-column left --text-column right", place, capsys)
    assert named["examples"] == {"file": 1}
    (place / "verdict.csv").write_text(f"sentence1,sentence2,verdict\ngood,{PAIR},entailment\n")
    both = evaluated("--run @rte --data @verdict.csv --label-column verdict", place, capsys)
    assert both["examples"] == {"file": 1}


def test_a_run_is_evaluated_on_a_task_with_the_same_classes(place: Path, capsys: pytest.CaptureFixture) -> None:
    task = evaluated("--run @rte --data glue/qnli --glue-dir @glue", place, capsys)
    file = evaluated("--run @rte --data @glue/QNLI/dev.tsv", place, capsys)
    assert task["metrics"] == file["metrics"]
    assert task["examples"] == {"validation": 6}
    assert task["classes"][0]["support"] == 6


def test_a_run_predicts_files_of_its_task(place: Path, capsys: pytest.CaptureFixture) -> None:
    for data, more in (("glue/RTE/test.tsv", ""), ("odd.csv", "--text-column left --text-column right")):
        words = f"predict --run @rte --data @{data} --out @{Path(data).stem}.jsonl {more}"
        assert main(words.replace("@", f"{place}/").split()) == 0
    rows = [json.loads(line) for line in (place / "test.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == ["7", "9"]
    assert set(rows[0]["probabilities"]) == {"entailment", "not_entailment"}


REFUSED = {
    "another task": ("evaluate --data glue/sst2 --glue-dir @glue", "(one text: negative, positive). Give a task with"),
    "no columns": ("evaluate --data @odd.csv", "Name yours: --text-column NAME"),
    "no columns to predict": ("predict --data @odd.csv --out @p.csv", "Name yours: --text-column NAME"),
    "columns of a task": ("evaluate --data glue/qnli --text-column a --text-column b", "--text-column is for a file"),
    "columns of a test set": ("predict --data glue/rte --text-column a --text-column b", "--text-column is for a file"),
    "no labels": ("evaluate --data @glue/RTE/test.tsv", "Texts without labels are for 'qvtune predict'"),
    "no such labels": ("evaluate --data @hub.csv --label-column lable", "has no column 'lable'. Did you mean 'label'?"),
    "labels of a task": ("evaluate --data glue/qnli --label-column a", "--label-column is for a file"),
    "no file": ("evaluate --data @nowhere.csv", "no such file"),
    "no suffix for predictions": ("predict --data @hub.csv --out @p.xlsx", "predictions are written as"),
    "predictions of another task": ("predict --data glue/cola --glue-dir @glue", "predictions are asked for glue/cola"),
    "merge into what is there": ("merge --out @glue", "exists already"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_before_the_model_is_loaded(
    words: str, message: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("load_config", "load_tokenizer", "load_model"):
        monkeypatch.setattr(f"qvtune.training.inference.{name}", lambda *_, **__: pytest.fail("something was loaded"))
    assert main(f"{words} --run @rte".replace("@", f"{place}/").split()) == 2
    assert message in capsys.readouterr().err


def test_a_run_on_the_real_task(glue_dir: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    if not (glue_dir / "RTE").is_dir():
        pytest.skip("RTE is not among the GLUE data here")
    lines = (glue_dir / "RTE" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "dev.tsv").write_text("\n".join(lines[:41]), encoding="utf-8")
    assert evaluated(f"--run @rte --data {tmp_path}/dev.tsv", place, capsys)["examples"] == {"file": 40}
