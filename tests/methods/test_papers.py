"""Each method does what its paper says, beside a formula of one's own in float64."""

import math

import numpy as np
import pytest
import torch
from methods_table import adapted, base, inputs, logits, stirred
from models import batch, build
from rounding import assert_near
from torch import Tensor, nn

from qvtune.adaptation import adapt, count_parameters, restore
from qvtune.errors import AdaptError
from qvtune.groups import param_groups
from qvtune.methods.adalora import allocate, kept_ranks, orthogonality, plan_steps
from qvtune.methods.adapted import adaptation_of
from qvtune.methods.first_factors import quantised
from qvtune.methods.galore import galore_adamw
from qvtune.methods.sparse import increment_of
from qvtune.roles.unwrap import unwrap

PLACE = "bert.encoder.layer.1.attention.self.value"
OUTPUT = "transformer.h.0.attn.c_proj"  # a Conv1D, whose weight lies (inputs, rows)


def layer(model: nn.Module, place: str = PLACE) -> nn.Module:
    return unwrap(model).get_submodule(place)


def weight_of(model: nn.Module, place: str = PLACE) -> Tensor:
    """The weight of a projection, (rows, inputs), in float64."""
    module = model.get_submodule(place)
    weight = module.weight.detach().double()
    return weight.T if type(module).__name__ == "Conv1D" else weight


def factors(module: nn.Module) -> tuple[Tensor, Tensor]:
    return tuple(part["default"].weight.detach().double() for part in (module.lora_A, module.lora_B))


def random_inputs(width: int = 32) -> Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(8))


def test_dora_scales_every_row_to_its_norm() -> None:
    model = stirred("dora")
    module = layer(model)
    a, b = factors(module)
    m = module.lora_magnitude_vector["default"].weight.detach().double()
    direction = weight_of(build("bert")) + 5 / 3 * b @ a
    wanted = m[:, None] * direction / direction.norm(dim=1, keepdim=True)
    x = random_inputs()
    found = module(x).detach().double()
    bias = build("bert").get_submodule(PLACE).bias.detach().double()
    assert_near(found, x.double() @ wanted.T + bias)
    start = layer(adapted("dora")).lora_magnitude_vector["default"].weight.detach().double()
    assert_near(start, weight_of(build("bert")).norm(dim=1))


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    module = layer(stirred("rslora"))
    a, b = factors(module)
    x = random_inputs()
    change = (module(x) - module.base_layer(x)).detach().double()
    assert_near(change, 5 / math.sqrt(3) * x.double() @ a.T @ b.T)


@pytest.mark.parametrize(("name", "place"), [("bert", PLACE), ("gpt2", OUTPUT)])
def test_pissa_starts_as_the_largest_singular_directions(name: str, place: str) -> None:
    model = adapted("pissa", name, roles="qvo")
    assert_near(logits(model.eval(), name), logits(base(name), name))
    u, s, vh = torch.linalg.svd(weight_of(base(name), place))
    a, b = factors(layer(model, place))
    torch.testing.assert_close(5 / 3 * b @ a, u[:, :3] * s[:3] @ vh[:3], rtol=0, atol=1e-5)
    torch.testing.assert_close(a @ a.T, torch.diag(s[:3]) * 3 / 5, rtol=0, atol=1e-5)
    rest = layer(model, place).get_base_layer().weight.detach().double()
    assert torch.linalg.matrix_norm(rest, 2) == pytest.approx(s[3].item(), abs=1e-5)


@pytest.mark.parametrize(("name", "place"), [("bert", PLACE), ("gpt2", OUTPUT)])
def test_olora_starts_as_a_qr_decomposition(name: str, place: str) -> None:
    model = adapted("olora", name, roles="qvo")
    assert_near(logits(model.eval(), name), logits(base(name), name))
    q, r = torch.linalg.qr(weight_of(base(name), place))
    a, b = factors(layer(model, place))
    torch.testing.assert_close(a.abs(), r[:3].abs(), rtol=0, atol=1e-5)
    torch.testing.assert_close(b @ a, q[:, :3] @ r[:3], rtol=0, atol=1e-5)
    torch.testing.assert_close(b.T @ b, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_loftq_makes_up_for_what_quantising_loses(rank: int) -> None:
    model = adapted("loftq", rank=rank)
    module = layer(model)
    weight, (a, b) = weight_of(build("bert")), factors(module)
    held = module.get_base_layer().weight.detach().double()
    block = held.flatten()[:64]
    assert len(block.unique()) <= 16
    s = torch.linalg.svdvals(weight - held)
    lost = (weight - held - 5 / rank * b @ a).norm()
    assert 0 < lost < (weight - held).norm()
    assert lost == pytest.approx(s[rank:].norm().item(), abs=1e-5)
    torch.testing.assert_close(held, quantised(weight.float()).double())


def test_nf4_rounds_to_the_nearest_of_its_values() -> None:
    # Dettmers et al. 2023, appendix E.
    values = [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]  # fmt: skip
    weight = torch.randn(8, 24, generator=torch.Generator().manual_seed(1))
    blocks = weight.view(-1, 64)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    codes = torch.tensor(values)
    nearest = codes[(blocks[..., None] / largest[..., None] - codes).abs().argmin(-1)] * largest
    torch.testing.assert_close(quantised(weight), nearest.view(8, 24), rtol=0, atol=1e-6)


def test_eva_starts_as_the_main_directions_of_the_inputs() -> None:
    given = batch(rows=12, positions=9)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    given["attention_mask"][:, 6:] = 0
    model = adapt(build("bert"), method="eva", rank=3, batches=[given])
    seen: list[Tensor] = []
    plain = build("bert")
    handle = plain.get_submodule(PLACE).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        plain(**given)
    handle.remove()
    states = seen[0][given["attention_mask"].bool()].double().numpy()
    _, s, vh = np.linalg.svd(states - states.mean(axis=0), full_matrices=False)
    assert s[2] > 1.01 * s[3]  # so that the third direction is one alone
    a, b = factors(layer(model))
    np.testing.assert_allclose(np.abs(np.diag(a.numpy() @ vh[:3].T)), 1.0, atol=1e-3)
    np.testing.assert_allclose((a @ a.T).numpy(), np.eye(3), atol=1e-4)
    assert not b.any()
    other = factors(layer(adapted("lora")))[0]
    assert (np.abs(np.diag(other.numpy() @ vh[:3].T)) < 0.9).all()


def test_eva_needs_more_tokens_than_the_rank() -> None:
    model = build("bert")
    with pytest.raises(AdaptError, match="finds 8 directions in batches of more tokens, and one has 8"):
        adapt(model, method="eva", batches=[batch(rows=1)])
    assert adaptation_of(model) is None
    adapt(model)


def test_adalora_shares_ranks_out_until_the_budget_is_met() -> None:
    steps, rank = 40, 3
    model = adapt(build("bert"), method="adalora", rank=rank, alpha=5.0, dropout=0.0, total_steps=steps)
    before = count_parameters(model)
    assert before.by_role == {"query": 2 * 5 * 65, "value": 2 * 5 * 65}  # 1.5 times the rank, rounded
    optimizer = torch.optim.AdamW(param_groups(model, lr=2e-2))
    budgets = []
    for step in range(1, steps + 1):
        model(**batch(seed=step)).loss.backward()
        optimizer.step()
        allocate(model, step)
        optimizer.zero_grad()
        budgets.append(sum(map(sum, kept_ranks(model).values())) if kept_ranks(model) else 20)
    assert budgets[:4] == [20] * 4  # the first tenth
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[-12:] == [12] * 12  # four projections of rank 3, over the last three tenths
    ranks = [sum(kept) for kept in kept_ranks(model).values()]
    assert len(ranks) == 4
    assert len(set(ranks)) > 1, "all projections were given the same"
    after = count_parameters(model)
    assert after.adapter == 12 * 65
    assert before.total - after.total == 8 * 65
    for name, kept in kept_ranks(model).items():
        values = unwrap(model).get_submodule(name).lora_E["default"].detach().flatten()
        assert (values != 0).tolist() == kept


def test_adalora_prunes_the_triplets_of_least_importance() -> None:
    model = adapt(build("bert"), method="adalora", rank=3, dropout=0.0, total_steps=10)
    plan_steps(model, 2)  # the first step measures, the second prunes
    optimizer = torch.optim.SGD(param_groups(model, lr=0.1))
    inner, scores = unwrap(model), {}
    model(**batch()).loss.backward()
    optimizer.step()
    for name in adaptation_of(model).targets:
        module = inner.get_submodule(name)
        found = []
        for part, across in (("lora_A", 1), ("lora_E", 1), ("lora_B", 0)):
            p = getattr(module, part)["default"]
            sensitivity = 0.15 * (p * p.grad).abs().detach().double()  # eq. 9 and 10, smoothed from 0
            spread = 0.15 * ((p * p.grad).abs().detach().double() - sensitivity).abs()
            found.append((sensitivity * spread).mean(across))
        scores[name] = sum(found)
    allocate(model, 1)
    optimizer.zero_grad()
    model(**batch()).loss.backward()
    optimizer.step()
    allocate(model, 2)
    order = sorted(((score.item(), name, i) for name, s in scores.items() for i, score in enumerate(s)), reverse=True)
    wanted = {(name, i) for _, name, i in order[:12]}
    assert {
        (name, i) for name, kept in kept_ranks(model).items() for i, is_kept in enumerate(kept) if is_kept
    } == wanted


def test_adalora_keeps_its_factors_orthogonal() -> None:
    model = adapted("adalora")
    distances = []
    for name in adaptation_of(model).targets:
        a, b = (getattr(layer(model, name), f"lora_{x}")["default"].detach().double() for x in "AB")
        distances += [torch.linalg.norm(m - torch.eye(len(m))) for m in (a @ a.T, b.T @ b)]
    assert orthogonality(model).item() == pytest.approx(0.5 * sum(distances).item() / len(distances), rel=1e-5)


def test_ia3_scales_every_output() -> None:
    module = layer(stirred("ia3"))
    x = random_inputs()
    scale = module.ia3_l["default"].detach().flatten()
    assert (scale - 1).abs().max() > 0.01
    torch.testing.assert_close(module(x), module.base_layer(x) * scale)
    assert_near(logits(adapted("ia3").eval()), logits(build("bert")))


def test_vera_shares_frozen_random_factors() -> None:
    model = stirred("vera", rank=40)  # beyond the width of 32
    shared = [layer(model, name) for name in adaptation_of(model).targets]
    assert len({id(module.vera_A["default"]) for module in shared}) == 1
    a, b = (getattr(shared[0], f"vera_{x}")["default"].double() for x in "AB")
    assert (a.shape, b.shape) == ((40, 32), (32, 40))
    assert not a.requires_grad
    x = random_inputs()
    for module in shared:
        d, scale = (getattr(module, f"vera_lambda_{x}")["default"].detach().double() for x in "db")
        change = (module(x) - module.base_layer(x)).detach().double()
        torch.testing.assert_close(change, scale * (d * (x.double() @ a.T) @ b.T), rtol=0, atol=1e-5)


def test_loraplus_gives_b_its_own_rate_and_combines_it_with_lambda() -> None:
    groups = {g["name"]: g for g in param_groups(adapted("loraplus"), lr=1e-4, lr_ratio=4.0)}
    rates = {name: group["lr"] for name, group in groups.items()}
    wanted = {"query": 1e-4, "query_b": 16e-4, "value": 4e-4, "value_b": 64e-4, "head": 1e-4, "head_no_decay": 1e-4}
    assert rates == pytest.approx(wanted)
    assert all(".lora_B." in name for name in groups["value_b"]["param_names"])
    assert all(".lora_A." in name for name in groups["value"]["param_names"])
    assert groups["head_no_decay"]["param_names"] == ["classifier.modules_to_save.default.bias"]
    plain = param_groups(adapted("lora"), lr=1e-4, lr_ratio=4.0, b_lr_ratio=16.0)
    assert {g["name"]: g["lr"] for g in plain} == rates


@pytest.mark.parametrize("rank", [1, 4])
def test_galore_changes_projections_by_low_rank_and_the_head_in_full(rank: int) -> None:
    model = adapted("galore", rank=rank, alpha=2.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = galore_adamw(param_groups(model, lr=1e-3, lr_ratio=3.0))
    model(**batch()).loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    for role, lr in (("query", 1e-3), ("value", 3e-3)):
        name = f"bert.encoder.layer.0.attention.self.{role}.weight"
        change = (model.get_parameter(name) - before[name]).detach().double()
        assert torch.linalg.matrix_rank(change, rtol=1e-3) == rank
        right = torch.linalg.svd(gradients[name].double())[2][:rank]  # the projection of the first step
        low = gradients[name].double() @ right.T
        wanted = -lr * 2.0 * low / (low.abs() + 1e-6 / math.sqrt(0.001)) @ right  # Adam's first step
        torch.testing.assert_close(change, wanted, rtol=0, atol=1e-3 * lr)
    head = (model.classifier.weight - before["classifier.weight"]).detach()
    assert torch.linalg.matrix_rank(head) == 3
    assert "projector" not in optimizer.state_dict()["state"][0]


def test_sift_trains_the_entries_of_largest_gradient() -> None:
    batches = [batch(seed=1), batch(seed=2)]
    torch.manual_seed(0)
    model = adapt(build("bert"), method="sift", density=0.1, batches=batches)
    count = round(0.1 * 32 * 32)
    plain = build("bert")
    for given in batches:
        plain(**given).loss.backward()
    before = {name: p.detach().clone() for name, p in restore(adapted("sift"), merge=False).named_parameters()}
    for name in adaptation_of(model).targets:
        gradient = plain.get_parameter(f"{name}.weight").grad.flatten().abs()
        chosen = increment_of(model, name).indices.long()
        assert len(chosen.unique()) == len(chosen) == count
        left = torch.ones(1024, dtype=bool)
        left[chosen] = False
        assert gradient[chosen].min() >= gradient[left].max()
    optimizer = torch.optim.AdamW(param_groups(model, lr=1e-2))
    for _ in range(3):
        model(**batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    places = {name: increment_of(model, name).indices.long() for name in adaptation_of(model).targets}
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == 4 * count + 3 * 32 + 3
    merged = restore(model)
    for name, chosen in places.items():
        moved = (merged.get_parameter(f"{name}.weight").detach() != before[f"{name}.weight"]).flatten()
        assert moved.nonzero().flatten().equal(chosen.sort().values)
    assert not torch.equal(merged.classifier.weight, before["classifier.weight"])


def test_sift_s_gradient_is_that_of_the_dense_weight() -> None:
    model, plain = stirred("sift"), restore(stirred("sift"))
    model(**batch()).loss.backward()
    plain(**batch()).loss.backward()
    for name in adaptation_of(model).targets:
        increment = increment_of(model, name)
        dense = plain.get_parameter(f"{name}.weight").grad.flatten()[increment.indices.long()]
        torch.testing.assert_close(increment.values.grad, dense)


def test_sift_needs_labels() -> None:
    model = build("bert")
    with pytest.raises(AdaptError, match="sift needs batches with labels"):
        adapt(model, method="sift", batches=[{"input_ids": batch()["input_ids"]}])
    assert adaptation_of(model) is None
    assert all(p.requires_grad for p in model.parameters())
    adapt(model)


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        ("adalora", {}, "Give total_steps"),
        ("adalora", {"total_steps": 1}, "there are 1. Give it at least 2"),
        ("eva", {}, "looks at data before it trains. Give batches"),
        ("sift", {}, "looks at data before it trains. Give batches"),
        ("sift", {"batches": [], "density": 0}, "density is 0; it must be above 0"),
        ("sift", {"batches": [], "density": 1.5}, "density is 1.5"),
        ("head", {"head": []}, "method head trains the head alone, and this model has none"),
    ],
)
def test_what_a_method_lacks_is_said(method: str, options: dict, text: str) -> None:
    with pytest.raises(AdaptError, match=text):
        adapt(build("bert"), method=method, **options)


@pytest.mark.parametrize(("family", "roles", "named"), [("llama", "qv", "query"), ("qwen2", "vo", "output")])
def test_bitfit_without_biases_is_refused(family: str, roles: str, named: str) -> None:
    with pytest.raises(AdaptError, match=f"the {named} projections of this model have none"):
        adapt(build(family), roles=roles, method="bitfit")
    adapt(build("qwen2"), roles="qv", method="bitfit")


def test_inputs_of_the_tables_differ() -> None:
    assert not torch.equal(inputs("bert")["input_ids"], inputs("gpt2")["input_ids"])
