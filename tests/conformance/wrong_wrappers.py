"""Wrapping functions, each wrong in one way that the suite is there to find, and one that is right."""

from typing import Any

import torch
from torch import nn

from qvtune.conformance.ways import Setup

Wrapped = tuple[nn.Module, Any]


def right(model: nn.Module, setup: Setup) -> Wrapped:
    return model, torch.optim.AdamW(setup.groups(model))


def one_rate(model: nn.Module, setup: Setup) -> Wrapped:
    groups = setup.groups(model)
    return model, torch.optim.AdamW([group | {"lr": 1e-2} for group in groups])


def ratio_upside_down(model: nn.Module, setup: Setup) -> Wrapped:
    groups = {group["name"]: group for group in setup.groups(model)}
    groups["query"]["lr"], groups["value"]["lr"] = groups["value"]["lr"], groups["query"]["lr"]
    return model, torch.optim.AdamW(list(groups.values()))


def head_at_the_querys_rate(model: nn.Module, setup: Setup) -> Wrapped:
    groups = setup.groups(model)
    for group in groups:
        group["lr"] = 1e-2 if group["name"].startswith("head") else group["lr"]
    return model, torch.optim.AdamW(groups)


def no_weight_decay(model: nn.Module, setup: Setup) -> Wrapped:
    return model, torch.optim.AdamW([group | {"weight_decay": 0.0} for group in setup.groups(model)])


def decayed_biases(model: nn.Module, setup: Setup) -> Wrapped:
    groups = setup.groups(model)
    most = max(group["weight_decay"] for group in groups)
    return model, torch.optim.AdamW([group | {"weight_decay": most} for group in groups])


def an_empty_group(model: nn.Module, setup: Setup) -> Wrapped:
    return model, torch.optim.AdamW(
        [*setup.groups(model), {"params": [], "param_names": [], "lr": 1.0, "name": "embeddings"}]
    )


def a_lost_parameter(model: nn.Module, setup: Setup) -> Wrapped:
    groups = setup.groups(model)
    groups[0]["params"], groups[0]["param_names"] = groups[0]["params"][1:], groups[0]["param_names"][1:]
    return model, torch.optim.AdamW(groups)


def halved_gradients(model: nn.Module, setup: Setup) -> Wrapped:
    """As of a wrapper that averages over twice as many processes as there are."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient: gradient / 2)
    return right(model, setup)


class Unclipped(torch.optim.AdamW):
    """Takes the gradients as they were before clipping."""

    def __init__(self, groups: Any, model: nn.Module) -> None:
        super().__init__(groups)
        self.kept: dict[nn.Parameter, torch.Tensor] = {}
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: self.kept.update({p: p.grad.clone()}))

    def step(self, closure: Any = None) -> Any:
        for parameter, gradient in self.kept.items():
            parameter.grad = gradient
        return super().step(closure)


def unclipped(model: nn.Module, setup: Setup) -> Wrapped:
    return model, Unclipped(setup.groups(model), model)


class LastPassAlone(torch.optim.AdamW):
    """Forgets the gradients of all passes but the last."""

    def __init__(self, groups: Any, model: nn.Module) -> None:
        super().__init__(groups)
        model.register_forward_pre_hook(lambda *_: self.zero_grad())


def last_pass_alone(model: nn.Module, setup: Setup) -> Wrapped:
    return model, LastPassAlone(setup.groups(model), model)


class Forgetful(torch.optim.AdamW):
    """Loses its moments when its state is loaded."""

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.state.clear()


def forgetful(model: nn.Module, setup: Setup) -> Wrapped:
    return model, Forgetful(setup.groups(model))


def other_outputs_in_evaluation(model: nn.Module, setup: Setup) -> Wrapped:
    def change(module: nn.Module, _: Any, output: Any) -> None:
        if not module.training:
            output.logits = -output.logits

    model.register_forward_hook(change)
    return right(model, setup)


def breaks(model: nn.Module, setup: Setup) -> Wrapped:
    raise RuntimeError("no such backend")
