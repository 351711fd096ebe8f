"""Plans: counts and operations against what torch itself counts."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import save_tiny_bert, save_tiny_llama
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoTokenizer, XLNetConfig, XLNetForSequenceClassification

from qvtune.training.config import make_config
from qvtune.training.model import build_on_meta, find_model, text_length
from qvtune.training.plan import TWO_CLASSES, plan_without_weights


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("plan")
    save_tiny_bert(place / "bert", layers=4, width=64)
    save_tiny_llama(place / "llama")
    return place


def plan_of(place: Path, model: str, **options: object):
    config = make_config({"model": str(place / model), "data": "none", "out": "none", "max_length": 32} | options)
    return plan_without_weights(config, with_data=False)


def test_with_data_the_longest_text_counts(place: Path, tmp_path: Path) -> None:
    text = "the film was good"
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(f"{text},{'xyz'[i % 3]}\n" for i in range(30)))
    options = {"model": str(place / "bert"), "data": str(tmp_path / "mine.csv"), "out": "none"}
    plan = plan_without_weights(make_config(options), with_data=True)
    tokenizer = AutoTokenizer.from_pretrained(place / "bert")
    assert plan.text_tokens == len(tokenizer(text)["input_ids"])
    assert plan.parameters_head == 3 * (64 + 1)
    # A configuration has no tokenizer with it.
    alone = plan_without_weights(make_config(options | {"model": str(place / "bert/config.json")}), with_data=True)
    assert alone.text_tokens == text_length(None, AutoConfig.from_pretrained(place / "bert"))


@pytest.mark.parametrize("model", ["bert", "llama"])
def test_no_weights_are_needed(model: str, place: Path) -> None:
    for weights in (place / model).glob("*.safetensors"):
        weights.rename(weights.with_suffix(".away"))
    plan = plan_of(place, model)
    for weights in (place / model).glob("*.away"):
        weights.rename(weights.with_suffix(".safetensors"))
    real = build_on_meta(find_model(str(place / model)), TWO_CLASSES)
    assert plan.parameters_total == sum(p.numel() for p in real.parameters()) + plan.parameters_adapter
    assert not plan.verified


def test_counts_by_role(place: Path) -> None:
    # Llama: 2 layers of width 32, query 32 and value 16 rows (2 of 4 heads): r (in + out) each.
    plan = plan_of(place, "llama", roles="qv", rank=4)
    assert plan.parameters_by_role == {"query": 2 * 4 * (32 + 32), "value": 2 * 4 * (32 + 16)}
    assert plan.parameters_head == 2 * 32
    assert plan.adapter_bytes == 4 * plan.parameters_trainable
    assert plan.memory_bytes["optimizer"] == 8 * plan.parameters_trainable


@pytest.mark.parametrize("layers", [None, [1]])
def test_size_of_an_adapter_on_raw_parameters(layers: list | None, tmp_path: Path) -> None:
    import qvtune

    config = XLNetConfig(vocab_size=100, d_model=64, n_layer=2, n_head=4, d_inner=48)
    config.save_pretrained(tmp_path / "xlnet")
    model = qvtune.adapt(XLNetForSequenceClassification(config), roles="qvo", rank=3, layers=layers)
    qvtune.save_adapter(model, tmp_path / "adapter")
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        values = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118  # no dictionary
    plan = plan_of(tmp_path, "xlnet", roles="qvo", rank=3, **({"layers": layers} if layers else {}))
    assert plan.adapter_bytes == 4 * values


@pytest.mark.parametrize("method", ["lora", "full"])
def test_operations_against_torch(method: str, place: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    import qvtune

    plan = plan_of(place, "bert", method=method, batch_size=4)
    model = AutoModelForSequenceClassification.from_pretrained(place / "bert", attn_implementation="eager")
    model = qvtune.adapt(model, method=method)
    ids = torch.randint(5, 20, (4, 32))
    with FlopCounterMode(display=False) as counter:
        model(ids).logits.sum().backward()
    # The lowest layer needs no gradient of its input, and the pooler and head are left out of the estimate.
    assert plan.step_operations == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_more_work_costs_more(place: Path) -> None:
    base = plan_of(place, "bert")
    assert plan_of(place, "bert", batch_size=64).step_operations == 2 * base.step_operations
    assert plan_of(place, "bert", accumulation=3).step_operations == 3 * base.step_operations
    saved = plan_of(place, "bert", gradient_checkpointing=True).memory_bytes["activations"]
    assert saved < base.memory_bytes["activations"] / 4
