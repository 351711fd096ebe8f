"""`find_attention` on every family: names, shapes and sizes written by hand in `models.py`."""

import contextlib
import warnings

import pytest
import torch
from models import BY_ID, build, cases
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import DiffLlamaConfig, DiffLlamaModel, GroupViTConfig, GroupViTModel, MambaConfig, MambaModel

from qvtune.errors import QVTuneError, RoleError
from qvtune.roles.find import find_attention
from qvtune.roles.layouts import Rows


@cases()
def test_every_family_by_hand(family):
    attention = find_attention(build(family))
    assert attention.verified
    layers = sorted(attention, key=lambda layer: (layer.stack, layer.kind, layer.index))
    places = sorted(
        (stack, kind, index, place.format(index))
        for stack, kind, place in family.places
        for index in range(family.layers)
    )
    assert [(layer.stack, layer.kind, layer.index) for layer in layers] == [place[:3] for place in places]
    for layer, (*_, name) in zip(layers, places, strict=True):
        assert layer.name == name
        assert [p.role for p in layer.projections] == ["q", "k", "v", "o"]
        assert [p.module for p in layer.projections] == [f"{name}.{relative}" for relative in family.names]
        assert [p.shape for p in layer.projections] == [family.shape(role) for role in "qkvo"]
        assert [p.rows for p in layer.projections] == [Rows(0, family.shape(role)[0]) for role in "qkvo"]
        assert "".join(p.role for p in layer.projections if p.bias) == family.biased
        assert (layer.heads, layer.kv_heads, layer.head_dim) == (4, family.kv_heads, family.head_dim)
        assert layer.uses == family.uses
        assert layer.layout == "separate"
        assert layer.verified


@cases()
def test_shapes_and_biases_are_those_of_the_modules(family):
    model = build(family)
    for projection in find_attention(model, verify=False).projections("qkvo"):
        module = model.get_submodule(projection.module)
        assert projection.shape == tuple(module.weight.shape)
        assert projection.parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("bert", "bert.encoder.layer.1.attention.self.query bert.encoder.layer.1.attention.output.dense"),
        ("albert", "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query"),
        ("mpnet", "mpnet.encoder.layer.1.attention.attn.o"),
        ("qwen2", "model.layers.1.self_attn.k_proj"),
        ("t5", "transformer.decoder.block.1.layer.1.EncDecAttention.v"),
        ("bart", "model.decoder.layers.1.encoder_attn.out_proj model.encoder.layers.0.self_attn.q_proj"),
    ],
)
def test_names_are_modules_of_the_model_as_printed(family, names):
    found = {p.module for p in find_attention(build(family)).projections("qkvo")}
    assert set(names.split()) <= found


@cases("bert", "llama")
def test_a_model_without_a_head_has_names_without_its_prefix(family):
    model = build(family)
    inner = find_attention(model.base_model).projections("qkvo")
    prefix = model.base_model_prefix + "."
    assert [prefix + p.module for p in inner] == [p.module for p in find_attention(model).projections("qkvo")]


@cases("bert", "llama", "t5", "deberta-v2-shared-keys")
def test_bfloat16_gives_the_same_map(family):
    model = build(family)
    in_full = find_attention(model)
    assert find_attention(model.to(torch.bfloat16)) == in_full


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@cases()
def test_a_freshly_initialised_model_is_understood(family, dtype):
    import transformers

    model_class = getattr(transformers, family.architecture)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = model_class._from_config(model_class.config_class(**family.options)).to(dtype)
    assert find_attention(model).verified


@pytest.mark.parametrize(("kv_heads", "group"), [(1, 4), (2, 2), (4, 1)])
def test_key_value_heads(kv_heads, group):
    (layer, _) = find_attention(build("llama", num_key_value_heads=kv_heads))
    assert (layer.heads, layer.kv_heads) == (4, kv_heads)
    assert layer["k"].shape == (8 * kv_heads, 32)
    assert layer["q"].shape[0] == group * layer["v"].shape[0]


def test_one_head_is_one_head():
    assert [(layer.heads, layer.head_dim) for layer in find_attention(build("bert", num_attention_heads=1))] == [
        (1, 32),
        (1, 32),
    ]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@cases("bert", "llama", "bart")
def test_attention_implementations(family, implementation):
    model = build(family)
    model.set_attn_implementation(implementation)
    assert find_attention(model).verified


@cases("bert", "llama", "t5")
def test_inside_the_users_own_peft(family):
    model = build(family)
    plain = find_attention(model)
    q, _, v, _ = (name.split(".")[-1] for name in family.names)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=[q, v]))
    assert sum("lora_A" in name for name, _ in wrapped.named_parameters()) == 2 * len(plain)
    assert find_attention(wrapped) == plain


def test_inside_torch_compile():
    model = build("bert")
    compiled = torch.compile(model)
    assert compiled is not model
    assert find_attention(compiled) == find_attention(model)


def test_inside_distributed_data_parallel(process_group):
    model = build("bert")
    assert find_attention(DistributedDataParallel(model)) == find_attention(model)


def test_inside_everything_at_once(process_group):
    model = build("llama")
    plain = find_attention(model)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    assert find_attention(torch.compile(DistributedDataParallel(wrapped))) == plain


def test_the_meta_device_cannot_be_measured():
    model = build("bert").to("meta")
    with pytest.raises(RoleError, match=r"meta device.*find_attention\(model, verify=False\)"):
        find_attention(model, verify=True)
    attention = find_attention(model)
    assert [p.module for p in attention.projections("qkvo")] == BY_ID["bert"].projections()
    assert not attention.verified
    assert attention == find_attention(model, verify=False)
    assert [layer.uses for layer in attention] == [0, 0]


def test_a_model_without_attention():
    model = MambaModel(MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, vocab_size=100))
    with pytest.raises(
        RoleError,
        match=r"'mamba' has no query, key and value projections that can be adapted: 'layers\.0\.mixer'.*state-space",
    ):
        find_attention(model)


def test_heads_of_differential_attention_are_pairs():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 100}
    (layer,) = find_attention(DiffLlamaModel(DiffLlamaConfig(num_attention_heads=4, num_key_value_heads=4, **sizes)))
    assert (layer.heads, layer.kv_heads, layer.head_dim, layer["q"].shape) == (2, 2, 16, (32, 32))


def test_an_assignment_to_groups_has_no_roles():
    with torch.device("meta"):
        model = GroupViTModel(GroupViTConfig())
    attention = find_attention(model, verify=False)
    assert {other.class_name for other in attention.others} == {"GroupViTAssignAttention"}
    assert not any(layer.name.endswith(".assign") for layer in attention)


def test_a_plain_module():
    with pytest.raises(RoleError, match="'Sequential' is not supported: no attention layer was found"):
        find_attention(nn.Sequential(nn.Linear(4, 4)))


def test_an_attention_module_that_is_not_understood_beside_ones_that_are():
    class StrangeAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(32, 96)

    model = build("bert")
    model.bert.encoder.extra = StrangeAttention()
    with pytest.raises(
        RoleError, match=r"2 attention layers were understood.*bert\.encoder\.extra \(StrangeAttention: mix\)"
    ):
        find_attention(model)


def test_a_layer_without_an_output_projection_has_the_other_roles():
    model = build("bert")
    for layer in model.bert.encoder.layer:
        layer.attention.output.dense = nn.Identity()
    attention = find_attention(model)
    assert attention.verified
    assert [p.role for p in attention.layers[0].projections] == ["q", "k", "v"]


def test_role_errors_are_value_errors_too():
    assert issubclass(RoleError, ValueError)
    assert issubclass(RoleError, QVTuneError)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        stack.callback(torch.distributed.destroy_process_group)
        yield
