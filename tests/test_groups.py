"""`param_groups`: who is in which group, at which rate, and what an optimizer makes of it."""

import math

import pytest
import torch
from models import batch, build, cases, fitting, stir_lora
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.parallel import DistributedDataParallel

from qvtune.adaptation import adapt
from qvtune.errors import QVTuneError, RateError
from qvtune.groups import param_groups
from qvtune.rates import Rates
from qvtune.roles.find import find_attention

BERT = "bert.encoder.layer.{}.attention."
ROBERTA = "roberta.encoder.layer.{}.attention."
LLAMA = "model.layers.{}.self_attn."
SAVED = ".modules_to_save.default"


def both(pattern, *names):
    return {pattern.format(i) + name for i in (0, 1) for name in names}


def lora(pattern, module):
    return both(pattern, f"{module}.lora_A.default.weight", f"{module}.lora_B.default.weight")


MEMBERS = {
    ("bert", "lora"): {
        "query": lora(BERT, "self.query"),
        "key": lora(BERT, "self.key"),
        "value": lora(BERT, "self.value"),
        "output": lora(BERT, "output.dense"),
        "head": {f"classifier{SAVED}.weight"},
        "head_no_decay": {f"classifier{SAVED}.bias"},
    },
    ("bert", "full"): {
        "query": both(BERT, "self.query.weight"),
        "query_no_decay": both(BERT, "self.query.bias"),
        "key": both(BERT, "self.key.weight"),
        "key_no_decay": both(BERT, "self.key.bias"),
        "value": both(BERT, "self.value.weight"),
        "value_no_decay": both(BERT, "self.value.bias"),
        "output": both(BERT, "output.dense.weight"),
        "output_no_decay": both(BERT, "output.dense.bias"),
        "head": {"classifier.weight"},
        "head_no_decay": {"classifier.bias"},
    },
    ("roberta", "lora"): {
        "query": lora(ROBERTA, "self.query"),
        "key": lora(ROBERTA, "self.key"),
        "value": lora(ROBERTA, "self.value"),
        "output": lora(ROBERTA, "output.dense"),
        "head": {f"classifier{SAVED}.{x}.weight" for x in ("dense", "out_proj")},
        "head_no_decay": {f"classifier{SAVED}.{x}.bias" for x in ("dense", "out_proj")},
    },
    ("roberta", "full"): {
        "query": both(ROBERTA, "self.query.weight"),
        "query_no_decay": both(ROBERTA, "self.query.bias"),
        "key": both(ROBERTA, "self.key.weight"),
        "key_no_decay": both(ROBERTA, "self.key.bias"),
        "value": both(ROBERTA, "self.value.weight"),
        "value_no_decay": both(ROBERTA, "self.value.bias"),
        "output": both(ROBERTA, "output.dense.weight"),
        "output_no_decay": both(ROBERTA, "output.dense.bias"),
        "head": {"classifier.dense.weight", "classifier.out_proj.weight"},
        "head_no_decay": {"classifier.dense.bias", "classifier.out_proj.bias"},
    },
    ("llama", "lora"): {
        "query": lora(LLAMA, "q_proj"),
        "key": lora(LLAMA, "k_proj"),
        "value": lora(LLAMA, "v_proj"),
        "output": lora(LLAMA, "o_proj"),
        "head": {f"score{SAVED}.weight"},
    },
    ("llama", "full"): {
        "query": both(LLAMA, "q_proj.weight"),
        "key": both(LLAMA, "k_proj.weight"),
        "value": both(LLAMA, "v_proj.weight"),
        "output": both(LLAMA, "o_proj.weight"),
        "head": {"score.weight"},
    },
}


def members(groups):
    return {group["name"]: set(group["param_names"]) for group in groups}


def inner_of(model):
    return model.get_base_model() if isinstance(model, PeftModel) else model


def assert_partition(groups, model):
    """Fail unless the groups are disjoint, not empty, and together what is trainable; names must fit tensors."""
    named = dict(inner_of(model).named_parameters())
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters() if p.requires_grad}
    assert all(group["params"] for group in groups)
    for group in groups:
        assert [id(p) for p in group["params"]] == [id(named[n]) for n in group["param_names"]]


@pytest.mark.parametrize("roles", ["qkvo", "qv", "k"])
@pytest.mark.parametrize(("family", "method"), list(MEMBERS), ids="-".join)
def test_exact_members(family, method, roles):
    adapted = adapt(build(family), roles=roles, method=method, **fitting(method, rank=3))
    groups = param_groups(adapted, lr=1e-3)
    first = {"q": "query", "k": "key", "v": "value", "o": "output"}
    wanted = {
        name: names
        for name, names in MEMBERS[family, method].items()
        if name.split("_")[0] in {first[role] for role in roles} | {"head"}
    }
    assert members(groups) == wanted
    assert_partition(groups, adapted)


@pytest.mark.parametrize("method", ["lora", "full"])
@cases("electra", "distilbert", "albert", "mpnet", "deberta-v2-own-position-keys", "qwen2", "phi", "opt", "t5", "bart")
def test_members_of_other_families_by_the_names_written_by_hand(family, method):
    adapted = adapt(build(family), roles="qv", method=method, **fitting(method, rank=3))
    groups = param_groups(adapted, lr=1e-3)
    assert_partition(groups, adapted)
    found = members(groups)
    for role, name in (("q", "query"), ("v", "value")):
        owned = found.pop(name) | found.pop(name + "_no_decay", set())
        leaves = ["lora_A.default.weight", "lora_B.default.weight"]
        if method == "full":
            leaves = ["weight", "bias"] if role in family.biased else ["weight"]
        assert owned == {f"{module}.{leaf}" for module in family.projections(role) for leaf in leaves}
    head = found.pop("head") | found.pop("head_no_decay", set())
    assert head
    assert all(name.startswith(tuple(h + "." for h in family.head)) for name in head)
    assert found == {}


def test_a_new_pooler_is_in_the_head(tmp_path):
    from transformers import BertForSequenceClassification

    build("bert", architecture="BertForMaskedLM").save_pretrained(tmp_path)
    adapted = adapt(BertForSequenceClassification.from_pretrained(tmp_path), method="full")
    found = members(param_groups(adapted, lr=1e-3))
    assert found["head"] == {"classifier.weight", "bert.pooler.dense.weight"}
    assert found["head_no_decay"] == {"classifier.bias", "bert.pooler.dense.bias"}


def test_order_is_query_key_value_output_head():
    adapted = adapt(build("bert"), roles="qkvo", method="full")
    names = [f"{n}{s}" for n in ("query", "key", "value", "output", "head") for s in ("", "_no_decay")]
    assert [g["name"] for g in param_groups(adapted, lr=1e-3)] == names


# Rates


RATES = [
    ({"lr": 3e-4}, {}),
    ({"lr": 3e-4, "lr_ratio": 7.3}, {"value": 3e-4 * 7.3}),
    ({"lr": 3e-4, "lr_ratio": 0.1}, {"value": 3e-4 * 0.1}),
    ({"lr": 3e-4, "head_lr": 1e-2}, {"head": 1e-2}),
    ({"lr": 3e-4, "lr_ratio": 4, "head_lr": 1e-2}, {"value": 3e-4 * 4, "head": 1e-2}),
    ({"lr": 3e-4, "query_lr": 1e-5}, {"query": 1e-5}),
    ({"lr": 3e-4, "key_lr": 1e-5, "lr_ratio": 2}, {"key": 1e-5, "value": 6e-4}),
    ({"lr": 3e-4, "value_lr": 1e-5}, {"value": 1e-5}),
    ({"lr": 3e-4, "output_lr": 1e-5}, {"output": 1e-5}),
]


@pytest.mark.parametrize(("given", "wanted"), RATES, ids=str)
def test_rates_are_exact(given, wanted):
    adapted = adapt(build("bert"), roles="qkvo", method="full")
    groups = param_groups(adapted, **given)
    assert len(groups) == 10
    for group in groups:
        assert group["lr"] == wanted.get(group["name"].removesuffix("_no_decay"), 3e-4)
    rates = {name: wanted.get(name, 3e-4) for name in ("query", "key", "value", "output", "head")}
    assert {name: Rates.resolve(**given).of(name) for name in rates} == rates


@pytest.mark.parametrize("method", ["lora", "full"])
def test_weight_decay_spares_what_is_named_so(method):
    groups = param_groups(adapt(build("bert"), method=method), lr=1e-3, weight_decay=0.07)
    assert {g["weight_decay"] for g in groups} == {0.0, 0.07}
    for group in groups:
        assert group["weight_decay"] == (0.0 if group["name"].endswith("_no_decay") else 0.07)
        assert {p.ndim for p in group["params"]} == ({1} if group["name"].endswith("_no_decay") else {2})
    assert {g["weight_decay"] for g in param_groups(adapt(build("bert"), method=method), lr=1e-3)} == {0.0}


@pytest.mark.parametrize("name", ["lr", "lr_ratio", "head_lr", "query_lr", "key_lr", "value_lr", "output_lr"])
@pytest.mark.parametrize("value", [0, 0.0, -1e-3, math.nan, math.inf, -math.inf])
def test_rates_that_make_no_sense(name, value):
    with pytest.raises(RateError, match=rf"^{name} is {value}; it must be a finite number above 0"):
        param_groups(adapt(build("bert")), **{"lr": 1e-3, name: value})


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weight_decay_that_makes_no_sense(value):
    with pytest.raises(RateError, match=rf"weight_decay is {value}; it must be a finite number, at least 0"):
        param_groups(adapt(build("bert")), lr=1e-3, weight_decay=value)


def test_two_ways_to_set_the_values_rate():
    with pytest.raises(RateError, match=r"value_lr 0\.001 and lr_ratio 2 both set the value's rate. Give one"):
        param_groups(adapt(build("bert")), lr=1e-3, value_lr=1e-3, lr_ratio=2)


def test_rate_errors_are_value_errors_too():
    assert issubclass(RateError, ValueError)
    assert issubclass(RateError, QVTuneError)


# Models that `adapt` did not make


def test_an_unadapted_model_is_refused_by_name():
    with pytest.raises(
        RateError, match=r"bert\.embeddings\.word_embeddings\.weight.* and \d+ more.*qvtune\.adapt first"
    ):
        param_groups(build("bert"), lr=1e-3)


def test_one_stray_parameter_is_refused_by_name():
    adapted = adapt(build("bert"))
    adapted.get_base_model().bert.embeddings.LayerNorm.bias.requires_grad_(True)
    with pytest.raises(RateError, match=r"^bert\.embeddings\.LayerNorm\.bias require gradients and belong neither"):
        param_groups(adapted, lr=1e-3)


def test_a_parameter_outside_the_transformers_model_is_refused():
    adapted = adapt(build("bert"))
    adapted.extra = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(RateError, match="extra require gradients and belong neither"):
        param_groups(adapted, lr=1e-3)


def test_nothing_to_train_is_refused():
    with pytest.raises(RateError, match=r"no parameter of this model requires gradients. Call qvtune\.adapt first"):
        param_groups(build("bert").requires_grad_(False), lr=1e-3)


@pytest.mark.parametrize("given", [True, False])
def test_a_peft_model_of_the_users_own(given):
    model = build("bert")
    attention = find_attention(model) if given else None
    config = LoraConfig(task_type="SEQ_CLS", r=3, lora_alpha=5, target_modules=["query", "value"])
    wrapped = get_peft_model(model, config)
    groups = param_groups(wrapped, lr=1e-3, lr_ratio=4, attention=attention)
    wanted = {k: v for k, v in MEMBERS["bert", "lora"].items() if k not in ("key", "output")}
    assert members(groups) == wanted
    assert_partition(groups, wrapped)
    assert {g["name"]: g["lr"] for g in groups}["value"] == 1e-3 * 4


def test_dora_magnitudes_belong_to_their_role():
    config = LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["q_proj", "v_proj"], use_dora=True)
    wrapped = get_peft_model(build("llama"), config)
    groups = param_groups(wrapped, lr=1e-3, lr_ratio=4, weight_decay=0.1)
    magnitude = "lora_magnitude_vector.default.weight"
    assert members(groups) == {
        "query": MEMBERS["llama", "lora"]["query"],
        "query_no_decay": both(LLAMA, f"q_proj.{magnitude}"),
        "value": MEMBERS["llama", "lora"]["value"],
        "value_no_decay": both(LLAMA, f"v_proj.{magnitude}"),
        "head": MEMBERS["llama", "lora"]["head"],
    }
    assert_partition(groups, wrapped)
    assert {g["name"]: g["lr"] for g in groups}["value_no_decay"] == 4e-3


def test_a_model_frozen_by_hand():
    model = build("roberta").requires_grad_(False)
    for layer in model.roberta.encoder.layer:
        layer.attention.self.key.requires_grad_(True)
    model.classifier.requires_grad_(True)
    wanted = {k: v for k, v in MEMBERS["roberta", "full"].items() if k.split("_")[0] in ("key", "head")}
    assert members(param_groups(model, lr=1e-3)) == wanted


# Optimizers


def train(model, optimizer, steps):
    model.eval()  # dropout off; gradients are the same otherwise
    for index in range(steps):
        optimizer.zero_grad()
        model(**batch(seed=index)).loss.backward()
        optimizer.step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "Adafactor", "RMSprop", "NAdam"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_torch_optimizers_take_the_groups(optimizer, method):
    adapted = adapt(build("bert"), method=method, **fitting(method, rank=3))
    if method == "lora":
        stir_lora(adapted)
    groups = param_groups(adapted, lr=1e-2, lr_ratio=4, weight_decay=0.01)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    made = getattr(torch.optim, optimizer)(groups)
    assert [g["name"] for g in made.param_groups] == [g["name"] for g in groups]
    assert [g["lr"] for g in made.param_groups] == [g["lr"] for g in groups]
    after = train(adapted, made, 1)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, p in adapted.named_parameters() if p.requires_grad}


def test_a_scheduler_keeps_the_ratios():
    groups = param_groups(adapt(build("bert")), lr=1e-3, lr_ratio=8, head_lr=5e-3)
    optimizer = torch.optim.AdamW(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    scheduler.step()
    rates = {g["name"]: g["lr"] for g in optimizer.param_groups}
    assert rates == {"query": 5e-4, "value": 4e-3, "head": 2.5e-3, "head_no_decay": 2.5e-3}


@pytest.mark.parametrize("method", ["lora", "full"])
@cases("bert", "llama")
def test_plain_sgd_moves_by_rate_times_gradient(family, method):
    adapted = adapt(build(family), roles="qkvo", method=method, **fitting(method, rank=3, alpha=5, dropout=0.0))
    if method == "lora":
        stir_lora(adapted)
    rates = {"query": 0.01, "key": 0.02, "value": 0.03, "output": 0.04, "head": 0.05}
    options = {f"{name}_lr": rate for name, rate in rates.items()}
    optimizer = torch.optim.SGD(param_groups(adapted, lr=1.0, **options))
    inner = inner_of(adapted)
    before = {name: p.detach().clone() for name, p in inner.named_parameters()}
    train(adapted, optimizer, 1)
    words = dict(zip(family.names, ("query", "key", "value", "output"), strict=True))
    seen = set()
    for name, parameter in inner.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, before[name])
            continue
        role = next((role for word, role in words.items() if f".{word}." in name), "head")
        seen.add(role)
        assert torch.equal(parameter, torch.add(before[name], parameter.grad, alpha=-rates[role])), name
    assert seen == set(rates)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_ratio_of_one_is_one_group_bit_for_bit(method):
    def run(ratio):
        torch.manual_seed(0)
        adapted = adapt(build("bert"), roles="qkv", method=method, **fitting(method, rank=3, alpha=5, dropout=0.0))
        start = {name: p.detach().clone() for name, p in adapted.named_parameters()}
        params = [p for p in adapted.parameters() if p.requires_grad]
        if ratio is not None:
            params = param_groups(adapted, lr=1e-2, lr_ratio=ratio)
        return start, train(adapted, torch.optim.AdamW(params, lr=1e-2, weight_decay=0.0), 5)

    (start, plain), (_, grouped), (_, other) = run(None), run(1.0), run(2.0)
    assert [name for name in plain if not torch.equal(plain[name], grouped[name])] == []
    assert any(not torch.equal(plain[name], start[name]) for name in plain)
    assert any(not torch.equal(plain[name], other[name]) for name in plain)


# Wrappers


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_wrappers_change_nothing(method, process_group):
    adapted = adapt(build("bert"), method=method, **fitting(method, rank=3))
    plain = param_groups(adapted, lr=1e-3, lr_ratio=4)
    parallel = DistributedDataParallel(adapted)
    for wrapped in (parallel, torch.compile(adapted), torch.compile(parallel)):
        groups = param_groups(wrapped, lr=1e-3, lr_ratio=4)
        assert members(groups) == members(plain)
        for group, other in zip(groups, plain, strict=True):
            assert [id(p) for p in group["params"]] == [id(p) for p in other["params"]]


def test_wrappers_around_the_users_own_peft(process_group):
    config = LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["query", "value"])
    wrapped = get_peft_model(build("bert"), config)
    groups = param_groups(DistributedDataParallel(wrapped), lr=1e-3)
    assert members(groups) == members(param_groups(wrapped, lr=1e-3))


def test_a_rate_in_quotes_is_refused():
    with pytest.raises(RateError, match=r"lr is '1e-3', a str; it must be a number"):
        param_groups(adapt(build("bert")), lr="1e-3")
