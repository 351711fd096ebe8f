"""`adapt` and `restore`: what trains, what does not, and what a refused call leaves behind."""

import copy
import itertools

import pytest
import torch
from adapting import changed_after_a_step, expected_trainable, inner_of, logits, step
from models import BY_ID, TEXT, assert_same_state, batch, build, cases, fitting, snapshot, stir, stir_lora
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from qvtune.adaptation import adapt, count_parameters, restore
from qvtune.errors import AdaptError, RoleError
from qvtune.groups import param_groups
from qvtune.methods.adapted import adaptation_of
from qvtune.roles.find import find_attention

SUBSETS = ["".join(s) for size in (1, 2, 3, 4) for s in itertools.combinations("qkvo", size)]


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("roles", SUBSETS)
def test_every_subset_of_roles_on_bert(roles, method):
    model = build("bert")
    expected = expected_trainable(model, BY_ID["bert"], roles, method, ["classifier"])
    adapted = adapt(model, roles=roles, method=method, **fitting(method, rank=3, alpha=5, dropout=0.0))
    if method == "lora":
        stir_lora(adapted)
    assert changed_after_a_step(adapted) == expected


@pytest.mark.parametrize("method", ["lora", "full"])
@cases(*(family.id for family in TEXT))
def test_query_and_value_of_every_family(family, method):
    model = build(family)
    expected = expected_trainable(model, family, "qv", method, family.head)
    adapted = adapt(model, roles="qv", method=method, **fitting(method, rank=3, alpha=5, dropout=0.0))
    if method == "lora":
        stir_lora(adapted)
    assert adaptation_of(adapted).head == family.head
    assert changed_after_a_step(adapted) == expected


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(("layers", "which"), [([0], (0,)), ([-1], (1,)), ([0, 1], (0, 1)), (None, (0, 1))])
def test_layers(layers, which, method):
    model = build("llama")
    expected = expected_trainable(model, BY_ID["llama"], "qv", method, ["score"], which)
    adapted = adapt(model, roles="qv", method=method, layers=layers, **fitting(method, rank=3, dropout=0.0))
    if method == "lora":
        stir_lora(adapted)
    assert changed_after_a_step(adapted) == expected


def test_a_layer_is_not_taken_for_one_with_a_longer_number():
    model = build("bert", num_hidden_layers=12)
    adapted = adapt(model, roles="q", layers=[1], rank=2)
    lora = {name for name, _ in inner_of(adapted).named_parameters() if "lora_" in name}
    assert lora == {f"bert.encoder.layer.1.attention.self.query.lora_{x}.default.weight" for x in "AB"}


# Heads


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("head", [["classifier"], ["bert.pooler.dense", "classifier"], ["bert.pooler.dense"], []])
def test_a_head_that_is_named(head, method):
    model = build("bert")
    expected = expected_trainable(model, BY_ID["bert"], "v", method, head)
    adapted = adapt(model, roles="v", method=method, head=head, **fitting(method, dropout=0.0))
    if method == "lora":
        stir_lora(adapted)
    assert changed_after_a_step(adapted) == expected


def test_a_head_that_peft_cannot_tell_from_another_module():
    text = (
        "head 'classifier' cannot be told from 'pre_classifier' by PEFT, which compares the ends of names. Name both "
        "in the head, or use method='full'"
    )
    assert_refused(build("distilbert"), AdaptError, text, head=["classifier"])
    model = build("distilbert")
    expected = expected_trainable(model, BY_ID["distilbert"], "v", "full", ["classifier"])
    assert changed_after_a_step(adapt(model, roles="v", method="full", head=["classifier"])) == expected


@pytest.mark.parametrize("name", ["A", "B", "out", "dropout", "default"])
def test_a_head_that_is_called_like_a_part_of_an_adapter(name):
    model = build("bert")
    model.add_module(name, nn.Linear(32, 2))
    assert_refused(model, AdaptError, "Give its module another name, or use method='full'", head=[name])
    assert count_parameters(adapt(model, method="full", head=[name])).head == 66


@pytest.mark.parametrize("kind", ["list", "dictionary"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_heads_in_a_list_or_a_dictionary_train(kind, method):
    model = build("bert")
    two = [nn.Linear(32, 2), nn.Linear(32, 3)]
    model.heads = nn.ModuleList(two) if kind == "list" else nn.ModuleDict({"a": two[0], "b": two[1]})
    before = [(name, type(module)) for name, module in model.named_modules()]
    adapted = adapt(model, method=method, head=["heads"])
    assert count_parameters(adapted).head == 66 + 99
    restore(adapted)
    assert [(name, type(module)) for name, module in model.named_modules()] == before


@cases("bert", "llama")
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_refusal_from_the_middle_of_peft_is_undone(family, after, monkeypatch):
    from peft.tuners.lora import LoraModel

    model = build(family)
    calls, real = [], LoraModel._create_and_replace

    def refuse_later(*args, **kwargs):
        calls.append(1)
        if len(calls) > after or not after:
            raise TypeError("no adapter for this")
        return real(*args, **kwargs)

    modules = [(name, type(module)) for name, module in model.named_modules()]
    state, trainable = snapshot(model), {n for n, p in model.named_parameters() if p.requires_grad}
    monkeypatch.setattr(LoraModel, "_create_and_replace", refuse_later)
    with pytest.raises(TypeError, match="no adapter for this"):
        adapt(model, roles="qkv")
    monkeypatch.undo()
    assert [(name, type(module)) for name, module in model.named_modules()] == modules
    assert_same_state(state, model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == trainable
    assert not hasattr(model, "peft_config")
    adapted = count_parameters(adapt(model, roles="qkv"))
    assert adapted == count_parameters(adapt(build(family), roles="qkv"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_the_checkpoint_did_not_hold_trains(tmp_path, method):
    build("bert", architecture="BertForMaskedLM").save_pretrained(tmp_path)
    model = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=3).eval()
    expected = expected_trainable(model, BY_ID["bert"], "qv", method, ["bert.pooler.dense", "classifier"])
    adapted = adapt(model, method=method, **fitting(method, dropout=0.0))
    if method == "lora":
        stir_lora(adapted)
    assert adaptation_of(adapted).head == ("bert.pooler.dense", "classifier")
    assert changed_after_a_step(adapted) == expected


@pytest.mark.parametrize("method", ["lora", "full"])
@cases("bert", "roberta", "distilbert", "llama", "t5", "bart", "deberta-v2")
def test_a_complete_checkpoint_keeps_its_pooler_frozen(family, method, tmp_path):
    build(family).save_pretrained(tmp_path)
    model = type(build(family)).from_pretrained(tmp_path)
    assert adaptation_of(adapt(model, method=method)).head == family.head


def test_a_head_of_another_size_counts_as_new(tmp_path):
    build("bert").save_pretrained(tmp_path)
    model = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert adaptation_of(adapt(model)).head == ("classifier",)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_language_models_head_does_not_train(method, tied, tmp_path):
    build("llama", architecture="LlamaForCausalLM", tie_word_embeddings=tied).save_pretrained(tmp_path)
    for model in (
        build("llama", architecture="LlamaForCausalLM", tie_word_embeddings=tied),
        type(build("llama", architecture="LlamaForCausalLM")).from_pretrained(tmp_path),
    ):
        expected = expected_trainable(model, BY_ID["llama"], "qv", method, [])
        adapted = adapt(model, method=method)
        assert {n for n, p in inner_of(adapted).named_parameters() if p.requires_grad} == expected
        assert count_parameters(adapted).head == 0


# Counts


@pytest.fixture(scope="module")
def roberta_base():
    with torch.device("meta"):
        return RobertaForSequenceClassification(
            RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2)
        )


@pytest.mark.parametrize(
    ("roles", "method", "by_role", "head", "trainable"),
    [
        ("qv", "lora", {"query": 147456, "value": 147456}, 592130, 294912 + 592130),
        ("qv", "full", {"query": 7087104, "value": 7087104}, 592130, 14766338),
        ("qkv", "full", {"query": 7087104, "key": 7087104, "value": 7087104}, 592130, 21853442),
    ],
)
def test_the_papers_counts_of_roberta_base(roberta_base, roles, method, by_role, head, trainable):
    model = copy.deepcopy(roberta_base)
    attention = find_attention(model, verify=False)
    counts = count_parameters(adapt(model, roles=roles, method=method, **fitting(method, rank=8), attention=attention))
    assert counts.by_role == by_role
    assert (counts.head, counts.adapter, counts.trainable) == (head, sum(by_role.values()), trainable)
    # RoBERTa-base has 124,055,040 parameters without pooler and head
    assert counts.total == 124055040 + 592130 + (294912 if method == "lora" else 0)


@pytest.mark.parametrize("method", ["lora", "full"])
@cases("bert", "albert", "t5")
def test_counts_count_once(family, method):
    model = build(family)
    plain = {id(p): p.numel() for p in model.parameters()}
    head = sum(p.numel() for name in family.head for p in model.get_submodule(name).parameters())
    shapes = [tuple(model.get_submodule(name).weight.shape) for name in family.projections("qv")]
    biases = sum(model.get_submodule(n).bias.numel() for n in family.projections("qv") if "q" in family.biased)
    counts = count_parameters(adapt(model, method=method, **fitting(method, rank=3)))
    adapters = sum(3 * (rows + columns) for rows, columns in shapes)
    weights = sum(rows * columns for rows, columns in shapes) + biases
    assert counts.adapter == (adapters if method == "lora" else weights)
    assert counts.head == head
    assert counts.trainable == counts.adapter + head
    assert counts.total == sum(plain.values()) + (adapters if method == "lora" else 0)


def test_counts_of_a_model_that_was_not_adapted():
    with pytest.raises(AdaptError, match=r"not adapted: call qvtune\.adapt first"):
        count_parameters(build("bert"))


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"rank": 0}, AdaptError, "rank is 0; it must be at least 1"),
        ({"rank": -2}, AdaptError, "rank is -2"),
        ({"rank": "8"}, AdaptError, "rank is '8', a str; it must be a number"),
        ({"rank": 1000}, AdaptError, "rank is 1000, and '.*query' is"),
        ({"roles": 3}, RoleError, "roles is 3; it must be letters"),
        ({"roles": ["q_lin"]}, RoleError, "unknown role 'q_lin'"),
        ({"layers": "0-1"}, AdaptError, "layers is '0-1'; it must be a list of layer numbers"),
        ({"rank": 2.5}, AdaptError, "rank is 2.5"),
        ({"alpha": 0}, AdaptError, "alpha is 0; it must be above 0"),
        ({"alpha": -1.0}, AdaptError, "alpha is -1.0"),
        ({"alpha": float("nan")}, AdaptError, "alpha is nan"),
        ({"alpha": float("inf")}, AdaptError, "alpha is inf"),
        ({"dropout": 1.0}, AdaptError, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"dropout": -0.1}, AdaptError, "dropout is -0.1"),
        ({"dropout": float("nan")}, AdaptError, "dropout is nan"),
        ({"method": "lroa"}, AdaptError, r"unknown method 'lroa'\. Did you mean 'lora'\? Methods are lora, full"),
        ({"method": "full", "rank": 0}, AdaptError, "rank is 0"),
        ({"roles": "qx"}, RoleError, "unknown role 'x'"),
        ({"roles": ""}, RoleError, "no role was named"),
        ({"layers": [2]}, RoleError, "layer 2 does not exist"),
        ({"layers": []}, RoleError, "no layer was named"),
        ({"head": ["clasifier"]}, AdaptError, r"head 'clasifier' is not a module.*Did you mean 'classifier'\?"),
        ({"head": [""]}, AdaptError, "head '' is not a module"),
        ({"head": ["bert.encoder"]}, AdaptError, "head 'bert.encoder' holds projections that are adapted too"),
        ({"head": ["bert.encoder"], "method": "full"}, AdaptError, "holds projections that are adapted too"),
    ],
    ids=str,
)
def test_a_refused_call_leaves_the_model_as_it_was(options, error, text):
    model = build("bert")
    assert_refused(model, error, text, **options)
    assert adaptation_of(model) is None
    adapt(model)  # and it can still be adapted


def test_a_name_in_place_of_a_model_is_refused():
    with pytest.raises(AdaptError, match=r"model is a str; load it first"):
        adapt("bert-base-uncased")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_full_training_in_half_precision_is_refused(dtype):
    model = build("bert").to(dtype)
    name = "bfloat16" if dtype is torch.bfloat16 else "float16"
    text = rf"query' is {name}; full training.*dtype=torch\.float32"
    assert_refused(model, AdaptError, text, method="full", attention=find_attention(model, verify=False))


@pytest.mark.parametrize("first", ["lora", "full"])
@pytest.mark.parametrize("second", ["lora", "full"])
def test_a_second_adapt_is_refused(first, second):
    adapted = adapt(build("bert"), method=first)
    text = r"adapted already\. Call qvtune\.restore\(model\) first"
    assert_refused(adapted, AdaptError, text, method=second)
    assert_refused(torch.compile(adapted), AdaptError, text, method=second)


def test_a_second_adapt_of_the_inner_model_is_refused():
    model = build("bert")
    adapted = adapt(model)
    assert_refused(model, AdaptError, "PEFT adapters already", method="full")
    assert adaptation_of(adapted) is not None


def test_a_model_with_peft_adapters_is_refused():
    model = get_peft_model(build("bert"), LoraConfig(r=2, target_modules=["query"]))
    assert_refused(model, AdaptError, r"PEFT adapters already\. Call model\.unload\(\) or merge_and_unload\(\) first")


def test_an_unknown_layout_is_refused():
    from transformers import MambaConfig, MambaModel

    model = MambaModel(MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, vocab_size=100))
    assert_refused(model, RoleError, "'mamba' has no query, key and value projections that can be adapted")


def assert_refused(model, error, text, **options):
    before = snapshot(model)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    modes = {name: module.training for name, module in model.named_modules()}
    with pytest.raises(error, match=text):
        adapt(model, **options)
    assert_same_state(before, model)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert {name: module.training for name, module in model.named_modules()} == modes


# The forward pass


@cases("bert", "distilbert", "llama", "t5", "albert")
def test_with_b_zero_lora_is_the_base_model(family):
    model = build(family)
    base = logits(model)
    adapted = adapt(model, roles="qkvo", rank=3, alpha=5)
    assert torch.equal(logits(adapted), base)
    stir_lora(adapted)
    assert not torch.allclose(logits(adapted), base)


@cases("bert", "roberta", "distilbert", "llama", "t5", "bart", "deberta-v2")
def test_a_model_in_bfloat16_trains_in_float32(family):
    model = build(family).to(torch.bfloat16)
    adapted = adapt(model, roles="qv", rank=3, alpha=5, dropout=0.0)
    stir_lora(adapted)
    for name, parameter in inner_of(adapted).named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype is torch.float32, name
        elif "original_module" not in name:
            assert parameter.dtype is torch.bfloat16, name
    gradients = step(adapted)
    assert set(gradients) == {n for n, p in inner_of(adapted).named_parameters() if p.requires_grad}
    assert all(torch.isfinite(g).all() and g.any() for g in gradients.values())
    tuned = logits(adapted)
    with adapted.disable_adapter():
        assert logits(adapted).dtype is torch.bfloat16
    plain = restore(adapted)
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits(plain).float(), tuned.float(), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("method", ["lora", "full"])
@cases("bert", "llama")
def test_gradient_checkpointing_gives_the_same_gradients(family, method, reentrant):
    def gradients(checkpointing):
        model = build(family)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            if reentrant:
                model.enable_input_require_grads()
        torch.manual_seed(0)
        adapted = adapt(model, method=method, **fitting(method, rank=3, alpha=5, dropout=0.0)).train()
        if method == "lora":
            stir_lora(adapted)
        calls = []
        first = next(m for m in adapted.modules() if type(m).__name__ in ("BertAttention", "LlamaAttention"))
        first.register_forward_hook(lambda *_: calls.append(1))
        adapted(**batch()).loss.backward()
        assert len(calls) == (2 if checkpointing else 1)
        return {n: p.grad for n, p in adapted.named_parameters() if p.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    assert list(plain) == list(checkpointed)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    assert all(g is not None for g in plain.values())


def test_dropout_reaches_the_adapters():
    adapted = adapt(build("bert"), rank=3, dropout=0.25)
    rates = {m.p for n, m in adapted.named_modules() if "lora_dropout" in n and isinstance(m, nn.Dropout)}
    assert rates == {0.25}


def test_full_returns_the_same_object_and_lora_a_peft_model():
    model = build("bert")
    assert adapt(model, method="full") is model
    other = build("bert")
    adapted = adapt(other, rank=3, alpha=5)
    assert isinstance(adapted, PeftModel)
    assert adapted.get_base_model() is other
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha, config.task_type) == (3, 5, "SEQ_CLS")


def test_the_same_seed_starts_the_same_adapters():
    def factors(seed):
        torch.manual_seed(seed)
        return {n: p for n, p in adapt(build("bert")).named_parameters() if "lora_A" in n}

    first, same, other = factors(1), factors(1), factors(2)
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert not any(torch.equal(first[n], other[n]) for n in first)


def test_adaptation_records_what_was_asked():
    import json

    adapted = adapt(build("bert"), roles="vk", rank=3, alpha=5, dropout=0.2, layers=[-1])
    adaptation = adaptation_of(adapted)
    record = json.loads(json.dumps(adaptation.to_dict()))
    record.pop("attention")
    assert record == {
        "roles": "kv",
        "method": "lora",
        "rank": 3,
        "alpha": 5,
        "dropout": 0.2,
        "layers": [-1],
        "head": ["classifier"],
        "density": None,
    }
    assert adaptation.targets == [f"bert.encoder.layer.1.attention.self.{x}" for x in ("key", "value")]


def test_a_map_given_by_the_caller_is_used():
    model = build("bert")
    attention = find_attention(model, verify=False)
    assert adaptation_of(adapt(model, attention=attention)).attention is attention


def test_param_groups_follow_restore_and_adapt():
    adapted = adapt(restore(adapt(build("bert"), roles="qv")), roles="k", method="full")
    assert [g["name"] for g in param_groups(adapted, lr=1e-3)] == ["key", "key_no_decay", "head", "head_no_decay"]


def test_stir_changes_something():
    model = build("bert")
    before = snapshot(model)
    stir(model.named_parameters())
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters())
