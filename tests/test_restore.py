"""`restore`: an adapted model becomes a plain one, with or without what was trained, and can be adapted again."""

import pytest
import torch
from adapting import changed_after_a_step, expected_trainable, inner_of, logits, step
from models import BY_ID, assert_same_state, build, cases, fitting, snapshot, stir_lora
from peft import PeftModel
from rounding import assert_near
from torch import nn
from transformers import BertForSequenceClassification

from qvtune.adaptation import adapt, restore
from qvtune.errors import AdaptError
from qvtune.methods.adapted import adaptation_of


@cases("bert", "roberta", "llama", "t5", "deberta-v2")
def test_restore_merges(family):
    model = build(family)
    base = logits(model)
    adapted = adapt(model, roles="qkvo", rank=3, alpha=5)
    stir_lora(adapted)
    tuned = logits(adapted)
    assert (tuned - base).abs().max() > 1e-3
    plain = restore(adapted)
    assert not isinstance(plain, PeftModel)
    assert_near(logits(plain), tuned)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in build(family).named_parameters()]
    assert all(p.requires_grad for p in plain.parameters())
    assert adaptation_of(plain) is None


def test_merged_weights_by_hand():
    model = build("llama")
    before = snapshot(model)
    adapted = adapt(model, roles="v", rank=3, alpha=5)
    stir_lora(adapted)
    name = "model.layers.1.self_attn.v_proj"
    layer = inner_of(adapted).get_submodule(name)
    a, b = (layer.get_submodule(f"lora_{x}.default").weight.detach().double() for x in "AB")
    wanted = before[name + ".weight"].double() + 5 / 3 * (b @ a)
    plain = restore(adapted)
    assert_near(plain.get_submodule(name).weight, wanted)


@cases("bert", "llama", "bart")
def test_restore_without_merging_gives_the_base_back(family):
    model = build(family)
    before = snapshot(model)
    adapted = adapt(model, roles="qv", rank=3, alpha=5, dropout=0.0)
    stir_lora(adapted)
    step(adapted)
    head = {n: p.detach().clone() for n, p in inner_of(adapted).named_parameters() if "modules_to_save" in n}
    plain = restore(adapted, merge=False)
    after = snapshot(plain)
    in_head = {name for name in after if name.startswith(tuple(h + "." for h in family.head))}
    assert {name for name in before if not torch.equal(before[name], after[name])} == in_head
    # the trained head stays
    assert in_head == {name.replace(".modules_to_save.default", "") for name in head}
    assert all(torch.equal(after[n.replace(".modules_to_save.default", "")], p) for n, p in head.items())


def test_restore_of_full_training_keeps_the_weights():
    adapted = adapt(build("bert"), method="full")
    step(adapted)
    trained = snapshot(adapted)
    plain = restore(adapted)
    assert_same_state(trained, plain)
    assert all(p.requires_grad for p in plain.parameters())


@pytest.mark.parametrize("first", ["lora", "full"])
@pytest.mark.parametrize("second", ["lora", "full"])
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("loaded", [True, False])
def test_adapt_again_after_restore(first, second, merge, loaded, tmp_path):
    model = build("bert")
    if loaded:
        model.save_pretrained(tmp_path)
        model = BertForSequenceClassification.from_pretrained(tmp_path)
    adapted = adapt(model, roles="qv", method=first, **fitting(first, rank=3, dropout=0.0))
    if first == "lora":
        stir_lora(adapted)
    step(adapted)
    plain = restore(adapted, merge=merge)
    plain.zero_grad()
    expected = expected_trainable(plain, BY_ID["bert"], "ko", second, ["classifier"])
    again = adapt(plain, roles="ko", method=second, **fitting(second, rank=2, dropout=0.0))
    if second == "lora":
        stir_lora(again)
    assert changed_after_a_step(again) == expected


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compile", "data parallel"])
def test_restore_through_wrappers(wrap, method):
    model = build("bert")
    adapted = adapt(model, method=method)
    if method == "lora":
        stir_lora(adapted)
    tuned = logits(adapted)
    plain = restore(wrap(adapted))
    assert plain is model
    assert_near(logits(plain), tuned)
    assert adaptation_of(plain) is None
    assert adaptation_of(adapted) is None


def test_restore_of_a_model_that_was_not_adapted():
    with pytest.raises(AdaptError, match="not adapted by qvtune"):
        restore(build("bert"))
