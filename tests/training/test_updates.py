"""How far the roles have moved, against merged weights in float64."""

import copy
import math

import pytest
import torch
from methods_table import adapted, base
from models import build, stir
from torch import Tensor, nn

import qvtune
from qvtune.fast.fast_path import make_fast
from qvtune.methods.table import METHODS
from qvtune.training.updates import SAMPLED_LAYERS, UpdateMeter

NAMES = {"q": "query", "k": "key", "v": "value"}


def weights(model: nn.Module, layer: int, kind: str) -> dict[str, Tensor]:
    """The query, key and value weights of a layer in float64, (outputs, inputs)."""
    if kind == "gpt2":
        fused = model.transformer.h[layer].attn.c_attn.weight.double().T
        return dict(zip("qkv", fused.detach().chunk(3), strict=True))
    attention = model.bert.encoder.layer[layer].attention.self
    return {role: getattr(attention, name).weight.detach().double() for role, name in NAMES.items()}


def expected(before: nn.Module, after: nn.Module, layers: list[int], kind: str, roles: str) -> dict[str, float]:
    result = {}
    for role in roles:
        pairs = [(weights(before, layer, kind)[role], weights(after, layer, kind)[role]) for layer in layers]
        moved = sum(float((new - old).square().sum()) for old, new in pairs)
        result[NAMES[role]] = math.sqrt(moved / sum(float(old.square().sum()) for old, _ in pairs))
    return result


@pytest.mark.parametrize("fast", [None, "fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_size_of_an_update(kind: str, method: str, fast: str | None) -> None:
    model = adapted(method, kind)
    before = base(kind)
    if fast is not None:
        model = make_fast(model, precision=fast)
    meter = UpdateMeter(model)
    start = meter.measure()
    assert all(size < 1e-6 for size in start.values())
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    was_training = [module.training for module in model.modules()]
    found = meter.measure()
    assert [module.training for module in model.modules()] == was_training
    if method in ("head", "bitfit"):
        assert found == {}  # no weight of a role trains
        return
    layers = list(range(before.config.num_hidden_layers))
    wanted = expected(before, qvtune.restore(model), layers, kind, "qv")
    # The weights that LoftQ starts from are near the model's, and not these.
    near = 0.2 if method == "loftq" else 1e-3 if fast == "bf16" else 1e-4
    assert found == pytest.approx(wanted, rel=near)
    assert found["query"] > 1e-3


def test_measuring_draws_no_random_numbers() -> None:
    model = qvtune.adapt(build("bert"), method="full")
    state = torch.get_rng_state()
    UpdateMeter(model).measure()
    assert torch.equal(torch.get_rng_state(), state)


def test_copies_are_kept_of_few_layers() -> None:
    before = build("bert", num_hidden_layers=9)
    model = qvtune.adapt(copy.deepcopy(before), roles="v", method="full")
    meter = UpdateMeter(model)
    assert len(meter._first) == SAMPLED_LAYERS
    stir((name, p) for name, p in model.named_parameters() if p.requires_grad)
    found = meter.measure()
    assert found == pytest.approx(expected(before, qvtune.restore(model), [0, 3, 5, 8], "bert", "v"), rel=1e-4)
