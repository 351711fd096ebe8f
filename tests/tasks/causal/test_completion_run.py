"""Runs on conversations and completions at the command line, beside plain transformers and plain PEFT."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_templates import CHATML, GEMMA_2
from peft import PeftModel
from tiny import save_tiny_bert, save_tiny_llama
from tiny_writer import COLOURS, save_writer, talks, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

import qvtune
from qvtune.cli.main import main
from qvtune.errors import DataError, RunError
from qvtune.tasks.causal.completion import Completion

LEARNING = "--roles qkvo --rank 16 --lr 1e-2 --lr-ratio 1 --batch-size 8 --precision fp32 --no-log-updates"
STEPS = "--max-steps 120 --eval-steps 60 --generate-samples 6 --max-new-tokens 20"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("writer")
    save_writer(place / "llama")
    write_rows(place / "talks.jsonl", talks(60))
    write_rows(place / "other.jsonl", talks(7))
    return place


def train(place: Path, out: Path, words: str, model: str = "llama", data: str = "talks.jsonl") -> int:
    line = f"train --model {place}/{model} --data {place}/{data} {LEARNING} {words}"
    return main([*line.split(), "--out", str(out)])


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    assert train(place, place / "run", STEPS) == 0
    return place / "run"


def result_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def losses_of(run: Path, name: str = "loss") -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record[name] for record in records if name in record]


def plain_losses(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> tuple[float, int]:
    """Return the summed loss of the answers and their number of tokens, by transformers alone."""
    total, count = 0.0, 0
    for row in rows:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        asked = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        start = len(tokenizer(asked, add_special_tokens=False).input_ids)
        labels = [-100] * start + ids[start:-1] + [-100]  # the line's end after the answer is not trained
        with torch.no_grad():
            own = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total, count = total + float(own) * (len(ids) - start - 1), count + len(ids) - start - 1
    return total, count


def written_plainly(model: Any, tokenizer: Any, rows: list[dict[str, Any]], **more: Any) -> list[str]:
    """Return what a model answers, one question at a time, by transformers alone."""
    found = []
    for row in rows:
        asked = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(asked, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=20, do_sample=False, **more)[0, ids.shape[1] :]
        found.append(tokenizer.decode(out, skip_special_tokens=True).strip())
    return found


def predicted(run: Path, data: Path, out: Path, *more: str) -> list[str]:
    assert main(["predict", "--run", str(run), "--data", str(data), "--out", str(out), *more]) == 0
    return [json.loads(line)["prediction"] for line in out.read_text(encoding="utf-8").splitlines()]


def test_training_learns_to_answer(trained: Path, place: Path) -> None:
    result = result_of(trained)
    assert result["main_metric"] == "log_likelihood"
    assert result["metrics"]["loss"] == -result["metrics"]["log_likelihood"] < 0.7
    assert result["metrics"]["perplexity"] == pytest.approx(np.exp(result["metrics"]["loss"]))
    assert result["metrics"]["answer_accuracy"] > 0.6
    assert losses_of(trained, "eval_answer_accuracy")[-1] == result["metrics"]["answer_accuracy"]
    assert losses_of(trained, "eval_loss")[-1] < losses_of(trained, "eval_loss")[0] < 5
    assert result["trainable_parameters"]["head"] == 0
    plan = json.loads((trained / "plan.json").read_text())
    assert plan["head"] == []
    assert plan["task"]["kind"] == "completion"
    example = next(note for note in plan["notes"] if note.startswith("A training example"))
    assert "13 of 49 tokens, those in ⟦ ⟧, are trained:\n<|im_start|>user\nColour of grass?<|im_end|>" in example
    assert "⟦It is green.<|im_end|>⟧" in example
    assert 'from_pretrained("path/of/the/base/model")' in (trained / "adapter" / "README.md").read_text()


def test_the_merged_model_in_plain_transformers(
    trained: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(f"merge --run {trained} --out {tmp_path}/merged".split()) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert model.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    base = AutoModelForCausalLM.from_pretrained(place / "llama")
    rows = talks(7)
    total, count = plain_losses(model, tokenizer, rows)
    assert total / count < plain_losses(base, tokenizer, rows)[0] / count / 3
    capsys.readouterr()
    words = f"evaluate --run {trained} --data {place}/other.jsonl --generate-samples 4 --mistakes 2"
    assert main([*words.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["log_likelihood"] == pytest.approx(-total / count, rel=1e-5)
    assert found["mistakes"][0]["loss"] >= found["mistakes"][1]["loss"] > total / count
    answers = written_plainly(model, tokenizer, rows)
    right = [answer == row["messages"][-1]["content"] for answer, row in zip(answers, rows, strict=True)]
    assert found["metrics"]["answer_accuracy"] == pytest.approx(np.mean(right[:4]))
    # in batches, padded on the left, with a cache: the same words as one by one
    assert predicted(trained, place / "other.jsonl", tmp_path / "p.jsonl", "--batch-size", "3") == answers
    assert len({*answers}) > 3
    assert main(words.split()) == 0
    assert "answer_accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "roles"), [("llama", "qv"), ("gpt2", "qkvo"), ("phi3", "qv")])
def test_the_adapter_in_plain_peft(place: Path, tmp_path: Path, kind: str, roles: str) -> None:
    """Also of models whose query, key and value are one matrix."""
    save_writer(tmp_path / kind, kind)
    write_rows(tmp_path / "talks.jsonl", talks(40))
    line = f"train --model {tmp_path}/{kind} --data {tmp_path}/talks.jsonl --roles {roles} --rank 8 --lr 1e-2"
    line += f" --lr-ratio 1 --max-steps 25 --max-new-tokens 20 --precision fp32 --out {tmp_path}/run"
    assert main(line.split()) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / kind)
    before = written_plainly(base, tokenizer, talks(7))
    model = PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter")).eval()
    after = written_plainly(model, tokenizer, talks(7))
    assert after != before
    assert predicted(tmp_path / "run", place / "other.jsonl", tmp_path / "p.jsonl") == after


def test_a_run_that_was_stopped_goes_on_to_the_same_end(
    trained: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    loss, batches = Completion.loss, []

    def stop(self: Completion, *args: Any) -> Any:
        batches.append(1)
        if len(batches) == 70:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Completion, "loss", stop)
        assert train(place, tmp_path / "run", STEPS) != 0
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "Going on from" in capsys.readouterr().err
    assert result_of(tmp_path / "run")["metrics"] == result_of(trained)["metrics"]
    weights = [(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in (trained, tmp_path / "run")]
    assert weights[0] == weights[1]


def test_chat(trained: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    once = ["chat", "--run", str(trained), "--once", "Colour of coal?"]
    assert main(once) == 0
    said = capsys.readouterr().out
    assert said == "It is black.\n"
    assert main([*once, "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out == "It is\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("Colour of coal?\n\n"))
    assert main(["chat", "--run", str(trained)]) == 0
    assert capsys.readouterr().out == said
    assert qvtune.chat(trained, "Colour of coal?") == "It is black."
    asked = [{"role": "user", "content": "Colour of coal?"}]
    assert qvtune.chat(qvtune.load_run(trained), asked) == "It is black."
    longer = [{"role": "system", "content": "x"}, *asked]
    assert qvtune.chat(trained, longer, max_new_tokens=3) != ""
    with pytest.raises(DataError, match=r"the conversation: message 1 of 'messages' has the role 'bot'\."):
        qvtune.chat(trained, [{"role": "bot", "content": "x"}])
    assert main(["chat", "--run", str(trained), "--once", " "]) == 2
    assert "--once is empty" in capsys.readouterr().err


def test_the_user_types(trained: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer has the conversation so far before it."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    typed = iter(["Colour of coal?", " ", "Colour of snow?"])

    def read(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", read)
    assert main(["chat", "--run", str(trained)]) == 0
    talk = [{"role": "user", "content": "Colour of coal?"}, {"role": "assistant", "content": "It is black."}]
    second = qvtune.chat(trained, [*talk, {"role": "user", "content": "Colour of snow?"}])
    assert capsys.readouterr().out == f"It is black.\n{second}\n\n"


def test_show(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = f"show --model {place}/llama --data {place}/talks.jsonl"
    assert main([*words.split(), "--examples", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("⟦") == 4  # two marked, two in the words
    assert "⟦It is white.<|im_end|>⟧" in out
    (tmp_path / "t.jinja").write_text(GEMMA_2)
    assert main([*words.split(), "--chat-template", str(tmp_path / "t.jinja"), "--train-on", "all"]) == 0
    out = capsys.readouterr().out
    assert "whole texts are trained (--train-on all)" in out
    assert "<start_of_turn>model\nIt is green.<end_of_turn>" in out
    assert main([*words.split(), "--chat-template", str(tmp_path / "none.jinja")]) == 2
    assert "none.jinja: cannot be read" in capsys.readouterr().err


def test_packing_changes_no_loss(trained: Path, place: Path, tmp_path: Path) -> None:
    rows = talks(30)
    for number, row in enumerate(rows):  # of very different lengths
        row["messages"][0]["content"] *= 1 + number % 4
    write_rows(tmp_path / "talks.jsonl", rows)
    save_writer(tmp_path / "llama")
    for out, words in (("plain", ""), ("packed", "--packing"), ("slow", "--packing --no-fast")):
        assert train(tmp_path, tmp_path / out, f"--max-steps 12 --logging-steps 1 --dropout 0 {words}") == 0
    plain, packed = losses_of(tmp_path / "plain"), losses_of(tmp_path / "packed")
    assert plain[-1] < plain[0]
    assert packed == pytest.approx(plain, rel=1e-3)
    assert packed[0] == pytest.approx(plain[0], rel=1e-5)
    assert len(losses_of(tmp_path / "slow")) == 12


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(place: Path, tmp_path: Path) -> None:
    """Also packed, and although each process has its own number of trained tokens."""
    line = f"train --model {place}/llama --data {place}/talks.jsonl --roles qkvo --lr 1e-2 --dropout 0 --max-steps 4"
    words = f"{line} --logging-steps 1 --precision fp32 --no-log-updates --max-grad-norm 0".split()
    assert main([*words, "--batch-size", "8", "--out", str(tmp_path / "one")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29573"]
    more = ["-m", "qvtune", *words, "--batch-size", "4", "--packing", "--out", str(tmp_path / "two")]
    done = subprocess.run([*launch, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-5)
    assert result_of(tmp_path / "two")["metrics"] == pytest.approx(result_of(tmp_path / "one")["metrics"], rel=1e-4)


def test_fast_and_slow_agree(place: Path, tmp_path: Path) -> None:
    found = []
    line = f"train --model {place}/llama --data {place}/talks.jsonl --roles qkvo --lr 1e-2 --precision fp32 --dropout 0"
    for more in ("", "--no-fast"):  # one batch holds all examples, so both have the same in a step
        out = tmp_path / f"run{more}"
        assert main(f"{line} --batch-size 54 --max-steps 6 --logging-steps 1 {more} --out {out}".split()) == 0
        found.append(losses_of(out))
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)


def test_long_examples(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = talks(20)
    for row in rows[:5]:
        row["messages"][0]["content"] = "word " * 20
    rows[5]["messages"][1]["content"] = "It is " * 30
    write_rows(tmp_path / "talks.jsonl", rows)
    write_rows(tmp_path / "valid.jsonl", talks(6))
    save_writer(tmp_path / "llama")
    more = f"--validation {tmp_path}/valid.jsonl --max-steps 2"
    assert train(tmp_path, tmp_path / "run", f"{more} --max-length 60") == 0
    out = capsys.readouterr().out
    assert "Left out 5 of 20 training examples: their prompts alone have 60 tokens or more (--max-length)." in out
    assert result_of(tmp_path / "run")["train_examples"] == 15
    assert train(tmp_path, tmp_path / "none", f"{more} --max-length 20") == 2
    assert "the prompts of all 20 training examples have 20 tokens or more" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_raw_completions_of_a_model_without_a_template(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_writer(tmp_path / "llama", template=None, eos="</s>")
    pairs = [{"prompt": f"{thing} is ", "completion": colour} for thing, colour in COLOURS.items()] * 8
    write_rows(tmp_path / "talks.jsonl", pairs)
    assert train(tmp_path, tmp_path / "run", f"{STEPS} --answer-pattern [a-z]+") == 0
    out = capsys.readouterr().out
    assert "both as they are, without a chat template" in out
    assert "chat template. Conversations are written plainly" not in out
    assert "⟦green</s>⟧" in out
    write_rows(tmp_path / "asked.jsonl", [{"prompt": "coal is "}, {"prompt": "snow is "}])
    found = predicted(tmp_path / "run", tmp_path / "asked.jsonl", tmp_path / "p.jsonl")
    assert found == ["black", "white"]
    assert qvtune.chat(tmp_path / "run", "snow is ") == "white"
    # and conversations, for which a plain template is said
    write_rows(tmp_path / "talks.jsonl", talks(20))
    assert train(tmp_path, tmp_path / "other", "--max-steps 1") == 0
    out = capsys.readouterr().out
    assert "The tokenizer has no chat template. Conversations are written plainly" in out
    assert "User: Colour of grass?\nAssistant:⟦ It is green.</s>⟧" in out
    assert AutoTokenizer.from_pretrained(tmp_path / "other" / "adapter").chat_template is not None


def test_a_question_that_is_too_long_keeps_its_end(trained: Path) -> None:
    """Its beginning is cut, so that the model has positions for the question and the answer."""
    assert isinstance(qvtune.chat(trained, "word " * 300 + "Colour of coal?"), str)


REFUSED = {
    "encoder": ("bert", "", "no end-of-sequence token, .* Give a decoder, such as pkg:smollm2"),
    "no head": ("headless", "", "has no weights for 'lm_head.weight', so that part would start at random"),
    "new head": ("llama", "--new-head", "--new-head is given, and a completion of texts needs the head that a model"),
    "class weights": ("llama", "--class-weights balanced", "is a completion of texts, which has no classes"),
    "pattern": ("llama", "--answer-pattern (", "--answer-pattern is '\\(', which is no regular expression"),
    "train on": ("llama", "--train-on some", "--train-on is 'some'; it should be 'completion' or 'all'"),
}


@pytest.mark.parametrize(("model", "words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, model: str, words: str, message: str
) -> None:
    save_tiny_bert(place / "bert")
    save_tiny_llama(place / "headless")
    assert train(place, tmp_path / "run", f"--max-steps 1 {words}", model=model) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_other_runs_do_not_write(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_tiny_bert(tmp_path / "bert")
    write_rows(tmp_path / "a.jsonl", [{"text": "good" if i % 2 else "bad", "label": i % 2} for i in range(20)])
    line = f"train --model {tmp_path}/bert --data {tmp_path}/a.jsonl --max-steps 1 --out {tmp_path}/run"
    assert main([*line.split(), "--packing"]) == 2
    assert "--packing is for conversations and completions, and a is a classification" in capsys.readouterr().err
    assert main(line.split()) == 0
    with pytest.raises(RunError, match="trained on a classification, so its model writes no texts"):
        qvtune.chat(tmp_path / "run", "Hi")
    assert main(f"evaluate --run {tmp_path}/run --generate-samples 3".split()) == 2
    assert "--generate-samples is given, and the run was trained on a classification" in capsys.readouterr().err


def test_rates_are_searched_and_swept(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_rows(tmp_path / "more.jsonl", talks(400))
    words = f"suggest --model {place}/llama --data {tmp_path}/more.jsonl --batch-size 8 --epochs 4 --roles qv"
    assert main(f"{words} --precision fp32 --lr auto --budget 400 --out {tmp_path}/found --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["lr"] > 0
    line = (
        f"sweep --model {place}/llama --data {place}/talks.jsonl --max-steps 3 --axis lr=1e-3,1e-2 --out {tmp_path}/s"
    )
    assert main(line.split()) == 0
    assert "log likelihood" in capsys.readouterr().out


def test_a_template_of_ones_own_is_kept_with_the_run(place: Path, tmp_path: Path) -> None:
    own = CHATML.replace("assistant\\n", "assistant\\n> ")
    (tmp_path / "t.jinja").write_text(own)
    assert train(place, tmp_path / "run", f"--max-steps 1 --chat-template {tmp_path}/t.jinja") == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "adapter").chat_template == own
    (tmp_path / "t.jinja").unlink()
    assert isinstance(qvtune.chat(tmp_path / "run", "Hi", max_new_tokens=3), str)
