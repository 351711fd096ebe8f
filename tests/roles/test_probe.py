"""The probe refuses what the structure gets wrong, and leaves no trace on the model."""

import pytest
import torch
from models import assert_same_state, batch, build, cases, snapshot
from torch import nn
from transformers import (
    ChameleonConfig,
    ChameleonModel,
    MusicgenDecoderConfig,
    MusicgenModel,
    PegasusXConfig,
    PegasusXModel,
    PretrainedConfig,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)

from qvtune.errors import RoleError
from qvtune.roles.find import find_attention
from qvtune.roles.inputs import candidate_inputs


class ToyAttention(nn.Module):
    """Grouped-query attention of width 32; `plays` says which child does the work of query, key and value."""

    def __init__(self, *, plays="qkv", head_dim=8, claimed=8, sharing=(0, 0, 1, 1)):
        super().__init__()
        rows = {"q": 32, "k": head_dim * (max(sharing) + 1), "v": head_dim * (max(sharing) + 1)}
        self.query, self.key, self.value = (nn.Linear(32, rows[role]) for role in "qkv")
        self.dense = nn.Linear(32, 32)
        self.plays, self.size, self.sharing = plays, head_dim, list(sharing)
        self.head_dim = claimed

    def forward(self, x):
        children = dict(zip("qkv", (self.query, self.key, self.value), strict=True))
        q, k, v = (children[role](x).unflatten(-1, (-1, self.size)).transpose(1, 2) for role in self.plays)
        if k.shape[1] != q.shape[1]:
            k, v = k[:, self.sharing], v[:, self.sharing]
        weights = (q @ k.transpose(2, 3) / self.size**0.5).softmax(-1)
        return self.dense((weights @ v).transpose(1, 2).flatten(2))


class OddAttention(ToyAttention):
    """Attention of width 32 with four heads that does one thing more than the plain one, or differently."""

    def __init__(self, *, odd, **options):
        super().__init__(sharing=(0, 1, 2, 3), **options)
        self.odd = odd
        if odd == "a convolution beside":
            self.dense, self.steer = nn.Linear(64, 32), nn.Linear(32, 32)

    def forward(self, x):
        children = dict(zip("qkv", (self.query, self.key, self.value), strict=True))
        inputs = [x, x, 0 * x if self.odd == "values alike" else x]
        q, k, v = (
            children[role](given).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for role, given in zip(self.plays, inputs, strict=True)
        )
        scores = q @ k.transpose(2, 3) / self.size**0.5
        if self.odd == "normed values and a sink":
            v = v / (v.norm(dim=-1, keepdim=True) + 1e-6)
            scores = torch.cat([scores, torch.zeros_like(scores[..., :1])], dim=-1)
        weights = scores.softmax(-1)[..., : k.shape[2]]
        context = (weights @ v).transpose(1, 2).flatten(2)
        if self.odd == "another order":
            context = context.flip(1)
        if self.odd == "two streams":
            return torch.cat([self.dense(context[:, :3]), self.dense(context[:, 3:])], dim=1)
        if self.odd == "a convolution beside":
            context = torch.cat([context, self.steer(q.transpose(1, 2).flatten(2)).softmax(-1) * x], dim=-1)
        return self.dense(context / 0 if self.odd == "not finite" else context)


class ToyModel(nn.Module):
    """An embedding and two attention layers."""

    def __init__(self, attention=ToyAttention, **options):
        super().__init__()
        self.config = PretrainedConfig(vocab_size=50, is_encoder_decoder=False)
        self.embed = nn.Embedding(50, 32)
        self.layers = nn.ModuleList(attention(**options) for _ in range(2))

    def forward(self, input_ids, **_):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(x)
        return x


class Picky(ToyModel):
    """A model that wants an argument of its own."""

    def forward(self, input_ids, flavour=None, **_):
        if flavour != "sweet":
            raise TypeError("flavour must be sweet")
        return super().forward(input_ids)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_the_toy_is_understood_when_honest():
    attention = find_attention(ToyModel())
    assert attention.verified
    assert [(layer.name, layer.heads, layer.kv_heads, layer.head_dim) for layer in attention] == [
        ("layers.0", 4, 2, 8),
        ("layers.1", 4, 2, 8),
    ]


@pytest.mark.parametrize(
    ("plays", "complaints"),
    [
        (
            "qvk",
            [
                "'layers.0.key' was taken for the key and behaves like a value",
                "'layers.0.value' was taken for the value and behaves like a key",
            ],
        ),
        (
            "kqv",
            [
                "'layers.0.query' was taken for the query and behaves like a key",
                "'layers.0.key' was taken for the key and behaves like a query",
            ],
        ),
        (
            "vkq",
            [
                "'layers.0.query' was taken for the query and behaves like a value",
                "'layers.0.value' was taken for the value and behaves like a query",
            ],
        ),
    ],
)
def test_swapped_roles_are_refused(plays, complaints):
    # one head per key, so that the three matrices have one shape and nothing but behaviour tells them apart
    model = ToyModel(plays=plays, sharing=(0, 1, 2, 3))
    assert not find_attention(model, verify=False).verified
    with pytest.raises(RoleError) as caught:
        find_attention(model)
    for complaint in complaints:
        assert complaint in str(caught.value)
    honest = {"query", "key", "value"} - {word for c in complaints for word in ("query", "key", "value") if word in c}
    assert not any(f"'layers.0.{name}'" in str(caught.value) for name in honest)


def test_swapped_keys_and_values_of_bert_are_refused():
    model = build("bert")
    core = model.bert.encoder.layer[1].attention.self
    core.key, core.value = core.value, core.key
    find_attention(model)  # names follow the modules, so a swap of both is no lie
    forward = type(core).forward

    class Liar(type(core)):
        def forward(self, *args, **kwargs):
            modules = dict(self._modules)
            self._modules["key"], self._modules["value"] = modules["value"], modules["key"]
            try:
                return forward(self, *args, **kwargs)
            finally:
                self._modules.update(key=modules["key"], value=modules["value"])

    core.__class__ = Liar
    with pytest.raises(RoleError, match=r"contradicts the structure of 'bert\.encoder\.layer\.1\.attention'.*key"):
        find_attention(model)


def test_a_projection_without_effect_is_refused():
    # with no query the scores are all zero, whatever the keys
    model = ToyModel()
    model.layers[1].query.register_forward_hook(lambda module, args, out: 0 * out)
    with pytest.raises(
        RoleError, match=r"'layers\.1\.key' was taken for the key and behaves like a projection with no"
    ):
        find_attention(model)


def test_a_wrong_head_size_is_refused():
    with pytest.raises(RoleError, match="taken to have 8 heads of size 4, but one query row moves 8 outputs"):
        find_attention(ToyModel(claimed=4))


def test_a_wrong_grouping_is_refused():
    # three heads read the first key head, one the second: no grouping of four over two
    with pytest.raises(RoleError, match="4 heads over 2 key/value heads, but one key row reaches 3 heads"):
        find_attention(ToyModel(sharing=(0, 0, 0, 1)))


ODD = ["values alike", "normed values and a sink", "another order", "two streams", "a convolution beside"]


@pytest.mark.parametrize("odd", ODD)
def test_attention_that_does_more_is_understood(odd):
    attention = find_attention(ToyModel(OddAttention, odd=odd))
    assert attention.verified
    assert [(layer.heads, layer.kv_heads, layer.head_dim) for layer in attention] == [(4, 4, 8)] * 2


@pytest.mark.parametrize("plays", ["qvk", "kqv", "vkq", "kvq", "vqk"])
@pytest.mark.parametrize("odd", ODD)
def test_swapped_roles_are_refused_in_attention_that_does_more(odd, plays):
    with pytest.raises(RoleError, match=r"the probe contradicts the structure of 'layers\.0'"):
        find_attention(ToyModel(OddAttention, odd=odd, plays=plays))


@pytest.mark.parametrize("odd", ODD)
def test_a_wrong_head_size_is_refused_in_attention_that_does_more(odd):
    with pytest.raises(RoleError, match="taken to have 8 heads of size 4, but one query row moves 8 outputs"):
        find_attention(ToyModel(OddAttention, odd=odd, claimed=4))


def test_a_context_that_is_not_finite_is_refused():
    with pytest.raises(RoleError, match=r"what 'layers\.0' gives for a short input is not finite"):
        find_attention(ToyModel(OddAttention, odd="not finite"))


def test_an_output_projection_that_is_not_called_is_refused():
    model = ToyModel()
    model.layers[0].__class__ = type("Functional", (ToyAttention,), {"forward": lambda self, x: self.query(x)})
    with pytest.raises(RoleError, match="Functional uses the weight of its output projection without calling"):
        find_attention(model)


def test_a_model_that_cannot_run_says_what_to_do():
    model = Picky()
    model.train()
    model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(
        RoleError, match=r"TypeError: flavour must be sweet.*find_attention\(model, inputs=\{\.\.\.\}\)"
    ):
        find_attention(model)
    assert [module.training for module in model.modules()] == modes
    assert _hooks(model) == []


def test_inputs_are_used():
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    attention = find_attention(Picky(), inputs={"input_ids": ids, "flavour": "sweet"})
    assert attention.verified
    assert len(attention) == 2


def test_inputs_reach_a_transformers_model():
    model = build("bert")
    seen = []
    model.bert.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    ids = batch(rows=1, positions=6)["input_ids"]
    assert find_attention(model, inputs={"input_ids": ids}).verified
    assert seen
    assert all(torch.equal(s, ids) for s in seen)


def test_a_layer_that_is_not_reached():
    model = ToyModel()
    model.spare = ToyAttention()
    with pytest.raises(RoleError, match="'spare' was not reached by a forward pass"):
        find_attention(model)


@cases()
def test_nothing_is_left_behind(family):
    model = build(family)
    model.train()
    for index, module in enumerate(model.modules()):
        module.training = index % 3 != 0
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    before, state = snapshot(model), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    gradients = [p.requires_grad for p in model.parameters()]
    hooks = _hooks(model)
    assert True in modes
    assert False in modes
    find_attention(model)
    assert_same_state(before, model)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == gradients
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert _hooks(model) == hooks


@cases("bert", "llama", "bart")
def test_the_map_does_not_depend_on_dropout_or_mode(family):
    dropout = {"attention_dropout": 0.5} if family.id != "bert" else {"attention_probs_dropout_prob": 0.5}
    assert find_attention(build(family, **dropout).train()) == find_attention(build(family))


class Seeing(ToyModel):
    """A model that sends an image through a layer of its own, where one is given."""

    def __init__(self):
        super().__init__()
        self.look, self.eye = nn.Linear(12, 32), ToyAttention()

    def forward(self, input_ids, pixel_values=None, **_):
        x = super().forward(input_ids)
        if pixel_values is not None:
            x = x + self.eye(self.look(pixel_values.mean(dim=(0, 1))[:8, :12])[None])
        return x


def test_a_layer_that_text_does_not_reach_is_reached_with_an_image():
    attention = find_attention(Seeing())
    assert attention.verified
    assert [(layer.name, layer.uses) for layer in attention] == [("layers.0", 1), ("layers.1", 1), ("eye", 1)]


def test_a_tower_whose_images_come_as_patches():
    config = Siglip2VisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, patch_size=4, num_patches=16
    )
    model = Siglip2VisionModel(config)
    inputs = [given for given in candidate_inputs(model) if given["pixel_values"].shape == (1, 16, 48)]
    assert inputs[0]["spatial_shapes"].tolist() == [[4, 4]]
    assert inputs[0]["pixel_attention_mask"].tolist() == [[1] * 16]
    assert find_attention(model).verified


def test_dummy_inputs_avoid_special_tokens_and_end_with_the_end():
    inputs = next(candidate_inputs(build("bart")))
    ids = inputs["input_ids"]
    assert ids.shape == (1, 8)
    assert ids[0, -1] == 2
    assert not set(ids[0, :-1].tolist()) & {0, 1, 2}
    assert torch.equal(inputs["decoder_input_ids"], ids)


def _hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return [
        (name, kind, len(getattr(module, kind)))
        for name, module in model.named_modules()
        for kind in kinds
        if getattr(module, kind)
    ]


@pytest.mark.parametrize("spread", [0.0, 1e-12, 1e-9, 1e-6])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_weights_of_next_to_nothing_are_measured(family, spread):
    """With noise in what the projections give; otherwise nothing would move anything, or rounding would."""
    model, usual = build(family), find_attention(build(family))
    with torch.no_grad():
        for layer in usual:
            for projection in layer.projections:
                weight = model.get_submodule(projection.module).weight
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * spread)
    found = find_attention(model)
    assert found == usual
    assert all(layer.verified for layer in found)


def test_a_block_that_is_longer_than_the_text():
    """Pegasus-X shifts every second block of 512 by half of it, so that most positions are padding."""
    config = PegasusXConfig(
        vocab_size=100, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_global_tokens=4,
    )  # fmt: skip
    torch.manual_seed(0)
    found = find_attention(PegasusXModel(config))
    assert config.block_size == 512
    assert [(layer.name, layer.heads, layer.head_dim) for layer in found][:2] == [
        ("encoder.layers.0.self_attn", 2, 8),
        ("encoder.layers.1.self_attn", 2, 8),
    ]


def test_blocks_of_convolutions_bar_nothing():
    """Chameleon's encoder of images has attention made of convolutions, beside the layers of its decoder."""
    image = {
        "embed_dim": 16, "num_embeddings": 10, "latent_channels": 16, "resolution": 32, "base_channels": 32,
        "channel_multiplier": [1, 2], "num_res_blocks": 1, "attn_resolutions": [16], "attn_type": "vanilla",
    }  # fmt: skip
    config = ChameleonConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, vq_config=image, vocabulary_map={"<image>": 4},
    )  # fmt: skip
    found = find_attention(ChameleonModel(config))
    assert [layer.name for layer in found] == ["layers.0.self_attn", "layers.1.self_attn"]
    assert {other.reason for other in found.others} == {"made of convolutions over an image"}


def test_codes_are_given_a_row_for_each_codebook() -> None:
    """MusicGen's decoder reads the codes of a sound as rows of a batch; read otherwise, keys look like queries."""
    config = MusicgenDecoderConfig(
        vocab_size=64, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0,
        bos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    found = find_attention(MusicgenModel(config))
    assert config.num_codebooks == 4
    assert [(layer.name.rpartition(".")[2], layer.kind) for layer in found] == [
        ("self_attn", "self"),
        ("encoder_attn", "cross"),
    ] * 2
    assert found.verified
