"""What each method's tests need to know of it, written by hand, and how to adapt a tiny model by it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fused import FUSED_BY_ID, tokens
from models import batch, build, fitting
from rounding import assert_near
from torch import nn

from qvtune.adaptation import adapt, restore
from qvtune.adapters import load_adapter, loads_in_peft, save_adapter
from qvtune.methods.table import METHODS

NAMES = list(METHODS)
# What trains in a projection of BERT, relative to it; the head trains with every method.
TRAINED = {
    "lora": {"lora_A.default.weight", "lora_B.default.weight"},
    "full": {"weight", "bias"},
    "dora": {"lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight"},
    "rslora": {"lora_A.default.weight", "lora_B.default.weight"},
    "pissa": {"lora_A.default.weight", "lora_B.default.weight"},
    "olora": {"lora_A.default.weight", "lora_B.default.weight"},
    "eva": {"lora_A.default.weight", "lora_B.default.weight"},
    "loftq": {"lora_A.default.weight", "lora_B.default.weight"},
    "loraplus": {"lora_A.default.weight", "lora_B.default.weight"},
    "adalora": {"lora_A.default", "lora_B.default", "lora_E.default"},
    "ia3": {"ia3_l.default"},
    "vera": {"vera_lambda_b.default", "vera_lambda_d.default"},
    "galore": {"weight", "bias"},
    "sift": {"parametrizations.weight.0.values"},
    "bitfit": {"bias"},
    "head": set(),
}
# Where plain PEFT loads what is saved: on separate projections, and on a fused one.
IN_PEFT = {"lora", "dora", "rslora", "pissa", "olora", "eva", "loraplus", "adalora", "ia3", "vera"}
IN_PEFT_FUSED = {"lora", "dora", "rslora", "pissa", "olora", "eva", "loraplus"}
SAVED_WHOLE = {"full", "galore"}


def base(name: str) -> nn.Module:
    """A tiny model: "bert" has separate projections, "gpt2" a fused one and an output in a `Conv1D`."""
    return build("bert") if name == "bert" else FUSED_BY_ID[name].build()


def inputs(name: str) -> dict[str, torch.Tensor]:
    given = batch() if name == "bert" else {**tokens(), "labels": torch.arange(len(tokens()["input_ids"])) % 2}
    return given


def supplies(method: str, name: str = "bert") -> dict[str, Any]:
    """What a method has to know beforehand."""
    entry = METHODS[method]
    return ({"total_steps": 20} if entry.steps else {}) | ({"batches": [inputs(name)] * 2} if entry.batches else {})


def adapted(
    method: str, name: str = "bert", *, model: nn.Module | None = None, seed: int = 3, **options: Any
) -> nn.Module:
    if METHODS[method].has_roles:
        options.setdefault("roles", "qv")
    chosen = fitting(method, rank=3, alpha=5.0, dropout=0.0) | options
    torch.manual_seed(seed)
    return adapt(base(name) if model is None else model, method=method, **chosen, **supplies(method, name))


def stirred(method: str, name: str = "bert", **options: Any) -> nn.Module:
    """An adapted model as after training: everything that trains has moved, B too."""
    model = adapted(method, name, **options)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def logits(model: nn.Module, name: str = "bert") -> torch.Tensor:
    given = {key: value for key, value in inputs(name).items() if key != "labels"}
    with torch.no_grad():
        return model(**given).logits


def check_saved_and_undone(
    method: str, build: Callable[[], nn.Module], ids: torch.Tensor, folder: Path, **options: Any
) -> None:
    """A model of another kind of attention, adapted and moved: saved, loaded, loaded by PEFT where it can, merged."""
    from peft import PeftModel

    def found(model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids)[0]

    torch.manual_seed(4)
    model = adapt(build(), method=method, **options, **fitting(method, rank=3, alpha=5.0, dropout=0.0)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    expected = found(model)
    assert (expected - found(build())).abs().max() > 1e-3
    save_adapter(model, folder)
    assert torch.equal(found(load_adapter(build(), folder).eval()), expected)
    assert loads_in_peft(model) == (method in ("rslora", "pissa", "olora", "loraplus"))
    if loads_in_peft(model):
        assert_near(found(PeftModel.from_pretrained(build(), folder).eval()), expected)
    assert_near(found(restore(model).eval()), expected)
