"""`AttentionMap`: choosing projections, reading roles off names, and the trip through JSON."""

import json

import pytest
from models import build

from qvtune.errors import RoleError
from qvtune.roles.attention import AttentionLayer, AttentionMap, Projection, parse_roles
from qvtune.roles.find import find_attention
from qvtune.roles.layouts import Rows


def _map(layers: int = 12) -> AttentionMap:
    return AttentionMap(
        "made-up",
        tuple(
            AttentionLayer(
                name=f"layer.{index}",
                index=index,
                stack="",
                kind="self",
                layout="separate",
                heads=4,
                kv_heads=2,
                head_dim=8,
                projections=tuple(
                    Projection(role, f"layer.{index}.{role}", Rows(0, rows), (rows, 32), role == "q", rows)
                    for role, rows in (("q", 32), ("k", 16), ("v", 16), ("o", 32))
                ),
                uses=1,
                verified=True,
            )
            for index in range(layers)
        ),
    )


@pytest.mark.parametrize(
    ("roles", "layers", "expected"),
    [
        ("qv", [0], ["layer.0.q", "layer.0.v"]),
        ("vq", [0], ["layer.0.q", "layer.0.v"]),
        ("k", [-1], ["layer.11.k"]),
        ("o", [-12, 11], ["layer.0.o", "layer.11.o"]),
        ("o", [11, 0], ["layer.0.o", "layer.11.o"]),
        ("q", [3, 3, -9], ["layer.3.q"]),
        ("qkvo", [1], ["layer.1.q", "layer.1.k", "layer.1.v", "layer.1.o"]),
        ("v", None, [f"layer.{i}.v" for i in range(12)]),
    ],
)
def test_projections(roles, layers, expected):
    assert [p.module for p in _map().projections(roles, layers)] == expected


@pytest.mark.parametrize("index", [12, -13, 100])
def test_a_layer_out_of_range(index):
    with pytest.raises(RoleError, match=rf"layer {index} does not exist.*12 attention layers, numbered 0 to 11"):
        _map().projections("q", [0, index])


def test_no_layer_at_all():
    with pytest.raises(RoleError, match="no layer was named"):
        _map().projections("q", [])


def test_layer_indices_count_within_a_stack_and_kind():
    attention = find_attention(build("bart"))
    assert [p.module for p in attention.projections("q", [-1])] == [
        "model.encoder.layers.1.self_attn.q_proj",
        "model.decoder.layers.1.self_attn.q_proj",
        "model.decoder.layers.1.encoder_attn.q_proj",
    ]
    with pytest.raises(RoleError, match="layer 2 does not exist"):
        attention.projections("q", [2])


@pytest.mark.parametrize(
    ("given", "parsed"),
    [("qv", "qv"), ("vq", "qv"), ("ovkq", "qkvo"), ("k", "k"), (["v", "q"], "qv"), (("o",), "o")],
)
def test_parse_roles(given, parsed):
    assert parse_roles(given) == parsed


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("qx", r"unknown role 'x' in roles 'qx'\. Roles are q \(query\), k \(key\), v \(value\), o \(output\)"),
        ("qV", r"unknown role 'V' in roles 'qV'\. Did you mean 'v'\?"),
        (["query"], r"unknown role 'query'.*Did you mean 'q'\?"),
        (["q", "vlaue"], r"unknown role 'vlaue'.*Did you mean 'v'\?"),
        ("qvq", "name a role twice"),
        ("", "no role was named"),
        ([], "no role was named"),
    ],
)
def test_parse_roles_refuses(given, text):
    with pytest.raises(RoleError, match=text):
        parse_roles(given)


@pytest.mark.parametrize("family", ["bert", "qwen2", "t5", "albert"])
def test_round_trip_through_json(family):
    attention = find_attention(build(family))
    again = AttentionMap.from_dict(json.loads(json.dumps(attention.to_dict())))
    assert again == attention
    assert hash(again) == hash(attention)
    assert again != _map()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("layer.1.q", "q"),
        ("layer.11.v", "v"),
        ("layer.1.k.weight", "k"),
        ("layer.11.o.lora_A.default.weight", "o"),
        ("layer.1.q_norm.weight", None),
        ("layer.1.qq", None),
        ("layer.1", None),
        ("layer.12.q.weight", None),
        ("layer.111.q.weight", None),
        ("model.layer.1.q", None),
        ("head.weight", None),
    ],
)
def test_role_of_module(name, role):
    assert _map().role_of_module(name) == role


def test_role_of_module_tells_layer_1_from_layer_11():
    attention = AttentionMap("made-up", (_map().layers[1],))
    assert attention.role_of_module("layer.1.v.weight") == "v"
    assert attention.role_of_module("layer.11.v.weight") is None


def test_parameters_of_a_projection():
    layer = _map().layers[0]
    assert layer["q"].parameters == 32 * 32 + 32
    assert layer["k"].parameters == 16 * 32


def test_a_role_that_a_layer_has_not():
    with pytest.raises(KeyError):
        _map().layers[0]["x"]


def test_length_iteration_and_verified():
    attention = _map(3)
    assert len(attention) == 3
    assert [layer.index for layer in attention] == [0, 1, 2]
    assert attention.verified
