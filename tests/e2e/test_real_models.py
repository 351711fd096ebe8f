"""The main job on the real models and data that come as packages, and on real GLUE where it is at hand."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rounding import Exact
from scoring import scores_of
from shallow import two_layers
from torch import Tensor, nn
from transformers import set_seed

import qvtune
from qvtune.cli.main import main
from qvtune.data.packaged import locate_model
from qvtune.data.records import text_dataset
from qvtune.data.tokens import tokenize
from qvtune.roles.find import find_attention
from qvtune.tasks.classification import Classification
from qvtune.tasks.load import load_data
from qvtune.tasks.options import DataOptions
from qvtune.training.inference import load_run
from qvtune.training.model import ModelSource, load_config, load_model, load_tokenizer

pytestmark = pytest.mark.slow

# Run by a fresh interpreter, which must not import qvtune.
PLAIN = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
base, gguf, adapter, merged, texts = sys.argv[1], sys.argv[2] or None, sys.argv[3], sys.argv[4], json.loads(sys.argv[5])
tokenizer = AutoTokenizer.from_pretrained(adapter)
batch = tokenizer(texts, padding=True, return_tensors="pt")
def logits(model):
    with torch.no_grad():
        return model.eval()(**batch).logits.tolist()
plain = AutoModelForSequenceClassification.from_pretrained(merged, dtype=torch.float32)
result = {"merged": logits(plain)}
del plain
from peft import PeftModel
model = AutoModelForSequenceClassification.from_pretrained(
    base, gguf_file=gguf, num_labels=2, pad_token_id=tokenizer.pad_token_id, dtype=torch.float32
)
result["adapter"] = logits(PeftModel.from_pretrained(model, adapter))
assert "qvtune" not in sys.modules
print(json.dumps(result))
"""
TEXTS = ["a warm , funny film", "dull .", "it is long and cold , and its jokes fall flat one after the other", "fine"]


def assert_same_without_qvtune(run: Path, model: str, tmp_path: Path) -> None:
    loaded = load_run(run)
    tokens = tokenize(text_dataset([TEXTS]), loaded.tokenizer, 128)
    ours = scores_of(loaded.model, loaded.tokenizer, tokens, batch_size=4)
    alone = scores_of(loaded.model, loaded.tokenizer, tokens, batch_size=1)
    wide = copy.deepcopy(loaded.model).double().eval()
    batch = loaded.tokenizer(TEXTS, padding=True, return_tensors="pt")

    def logits() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"logits": wide(**batch).logits}

    exact, ours, alone = Exact.of(logits), {"logits": torch.tensor(ours)}, {"logits": torch.tensor(alone)}
    assert exact.refuse(ours, alone) == exact.refuse(alone, ours) == {}, "a prediction depends on its batch"
    qvtune.merge(loaded, tmp_path / "merged")
    base, gguf = locate_model(model)
    words = map(str, (base, gguf or "", run / "adapter", tmp_path / "merged", json.dumps(TEXTS)))
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, found in json.loads(done.stdout).items():
        assert exact.refuse(ours, {"logits": torch.tensor(found)}) == {}, name
        assert exact.refuse({"logits": torch.tensor(found)}, ours) == {}, name


def test_minilm_learns_reviews_and_its_adapter_loads_in_plain_peft(tmp_path: Path) -> None:
    words = (
        f"train --model pkg:minilm --data pkg:rotten_tomatoes --max-train-samples 640 --max-eval-samples 200 "
        f"--epochs 2 --lr 1e-3 --lr-ratio 4 --out {tmp_path}/run"
    )
    assert main(words.split()) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["accuracy"] > 0.7
    assert result["trainable_parameters"] == {"query": 36864, "value": 36864, "head": 770, "total": 74498}
    assert (tmp_path / "run" / "report.html").exists()
    assert_same_without_qvtune(tmp_path / "run", "minilm", tmp_path)


def test_smollm2_trains_and_its_predictions_do_not_depend_on_the_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        f"train --model pkg:smollm2 --data pkg:rotten_tomatoes --max-train-samples 16 --max-eval-samples 8 "
        f"--batch-size 8 --epochs 1 --max-length 48 --out {tmp_path}/run"
    )
    assert main(words.split()) == 0
    assert "it/s]" not in capsys.readouterr().err, "a bar without a terminal, such as that of a GGUF file"
    # 30 layers of width 576 with 9 heads over 3 key/value heads of size 64, rank 8.
    counts = json.loads((tmp_path / "run" / "result.json").read_text())["trainable_parameters"]
    assert counts == {"query": 30 * 8 * (576 + 576), "value": 30 * 8 * (576 + 192), "head": 2 * 576, "total": 461952}
    assert_same_without_qvtune(tmp_path / "run", "smollm2", tmp_path)


@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_fast_and_plain_have_the_same_loss_and_gradients(name: str, tmp_path: Path) -> None:
    folder = locate_model(name)[0] if name == "minilm" else two_layers(name, tmp_path)
    source = ModelSource(name, str(folder), {})
    config = load_config(source)
    tokenizer = load_tokenizer(source, config)
    set_seed(0)
    model = load_model(
        source,
        config,
        Classification("reviews", ("bad", "good"), "accuracy", "accuracy", ("text",), "label"),
        tokenizer,
    )
    model = qvtune.adapt(model, roles="qv", dropout=0.0).eval()  # no dropout
    for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
        parameter.data.normal_(std=0.02)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt") | {"labels": torch.tensor([1, 0, 0, 1])}

    def loss_and_gradients(model: nn.Module) -> dict[str, Tensor]:
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        return {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    plain, fast = loss_and_gradients(model), loss_and_gradients(qvtune.make_fast(model))
    assert any(hasattr(type(module), "qvtune_plain") for module in model.modules())
    wide = qvtune.undo_fast(model).double()
    Exact.of(lambda: loss_and_gradients(wide)).accept(fast, plain)


@pytest.mark.parametrize(
    ("task", "metric"), [("rte", "accuracy"), ("stsb", "pearson"), ("cola", "matthews_correlation")]
)
def test_glue_from_training_to_submission(task: str, metric: str, glue_dir: Path, tmp_path: Path) -> None:
    words = (
        f"train --model pkg:minilm --task {task} --glue-dir {glue_dir} --max-train-samples 64 --max-eval-samples 64 "
        f"--epochs 1 --out {tmp_path}/run"
    )
    assert main(words.split()) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["main_metric"] == metric
    assert -1 <= result["metrics"][metric] <= 1
    loaded = load_run(tmp_path / "run")
    assert find_attention(loaded.model).verified


def test_glue_submission_has_a_row_per_test_example(glue_dir: Path, tmp_path: Path) -> None:
    words = f"train --model pkg:minilm --task cola --glue-dir {glue_dir} --max-steps 1 --max-eval-samples 32"
    assert main([*words.split(), "--out", str(tmp_path / "run")]) == 0
    predict = f"predict --run {tmp_path}/run --data glue/cola --out {tmp_path}/submission"
    assert main(predict.split()) == 0
    lines = (tmp_path / "submission" / "CoLA.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in lines[1:]] == [str(i) for i in range(1063)]
    assert {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"}


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    data = load_data(DataOptions(data="pkg:imdb", max_train_samples=50, max_eval_samples=10), 0)
    assert max(len(text.split()) for text in data.train["text"]) > 300
    words = "train --model pkg:minilm --data pkg:imdb --max-train-samples 16 --max-eval-samples 8 --max-steps 1"
    assert main([*words.split(), "--max-length", "32", "--out", str(tmp_path / "run")]) == 0
    notes = json.loads((tmp_path / "run" / "plan.json").read_text())["notes"]
    assert any("fill 32 tokens" in note for note in notes)
