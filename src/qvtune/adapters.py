"""Save what `adapt` trained as an ordinary PEFT adapter, and load it unchanged."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from qvtune.adaptation import apply, check_fresh, take_off
from qvtune.arguments import check_model, checked_folder
from qvtune.errors import AdaptError, ModelError, RoleError
from qvtune.methods.adapted import adaptation_of, record_of
from qvtune.methods.files import SAVE_AGAIN, other_weights
from qvtune.methods.method import Adaptation
from qvtune.methods.peft_format import PREFIX
from qvtune.methods.table import METHODS
from qvtune.roles.attention import AttentionMap
from qvtune.roles.fused import misfit
from qvtune.roles.locate import locate
from qvtune.roles.unwrap import unwrap
from qvtune.shards import is_sharded, whole_parameters, writes_here
from qvtune.stored import read_stored

ADAPTATION_FILE = "qvtune.json"

UNLOADABLE = """# Trained by {method} with qvtune

Plain PEFT cannot load this. With qvtune, on the model that it was trained on:

```python
import qvtune

model = qvtune.load_adapter(model, "path/of/this/folder")
```
"""


def save_adapter(model: nn.Module, folder: str | Path) -> None:
    """Save what `adapt` trained as an adapter. Plain PEFT can load it if PEFT can express it.

    On a fused projection the LoRAs of its roles become one. With rank r and n trained roles, the roles' A are stacked
    to (n r, inputs). B is (rows, n r), with a block per role and zero rows for roles that did not train. The scale
    stays. A LoRA that did not start at zero ("pissa", "olora") is saved with twice the rank, as B A minus its first
    product, which fits the original model. For XLNet's raw parameters PEFT has no low-rank form, so the saved change of
    each is as large as the parameter. What plain PEFT cannot load (`loads_in_peft`) is saved in its own form, for
    `load_adapter`. `qvtune.json` beside it tells `load_adapter` what trained. Of a model that FSDP2 or ZeRO 3 has
    divided among processes, every process has to call this: all gather, and the first writes. Of any other model, let
    one process call it.

    Args:
        model: what `adapt` returned, for a method that does not save the whole model; also inside a wrapper.
        folder: where to write; created if it does not exist.

    Raises:
        AdaptError: if the model was not adapted by such a method, or in a way that PEFT does not compute.
    """
    folder, adaptation = checked_folder(folder), adaptation_of(model)
    if adaptation is None or METHODS[adaptation.method].saves == "model":
        raise AdaptError(
            "only a model that qvtune.adapt gave LoRA or another adapter has an adapter to save. Save this one with "
            "model.save_pretrained."
        )
    sharded = is_sharded(model)
    with whole_parameters(model):
        if not sharded or writes_here():
            _write(model, adaptation, folder)
    if sharded and torch.distributed.is_initialized():
        torch.distributed.barrier()  # the files are there when any process goes on


def _write(model: nn.Module, adaptation: Adaptation, folder: Path) -> None:
    METHODS[adaptation.method].save(model, adaptation, folder)
    if not loads_in_peft(model):
        (folder / "README.md").write_text(UNLOADABLE.format(method=adaptation.method), encoding="utf-8")
    text = json.dumps(adaptation.to_dict(), indent=2, ensure_ascii=False) + "\n"
    (folder / ADAPTATION_FILE).write_text(text, encoding="utf-8")


def loads_in_peft(model: nn.Module) -> bool:
    """Whether plain PEFT can load what `save_adapter` saves, on the model in its original shape."""
    adaptation = adaptation_of(model)
    assert adaptation is not None
    return METHODS[adaptation.method].loads_in_peft(model, adaptation)


def load_adapter(model: nn.Module, folder: str | Path) -> nn.Module:
    """Load an adapter that `save_adapter` wrote onto a model, ready for use or further training.

    Args:
        model: the transformers model that it was trained on, changed in place.
        folder: where the adapter is.

    Returns:
        What `adapt` returned when the adapter was made, with its weights.

    Raises:
        ModelError: if the folder holds no adapter from qvtune, or one for another model; the text names the difference.
        AdaptError: if the model is adapted already.
    """
    check_model(model)
    folder = checked_folder(folder)
    recorded = _read_adaptation(folder)
    check_fresh(model)
    problem = misfit(unwrap(model), recorded.attention) or _other_layers(unwrap(model), recorded.attention)
    if problem is not None:
        raise ModelError(
            f"{folder}: the adapter does not fit the model: it was made for {_summary(recorded.attention)}, and the "
            f"model {problem}. Give the model that it was trained on."
        )
    inner = unwrap(model)
    weights = METHODS[recorded.method].read(folder)
    _check_head(inner, recorded, weights, folder)
    trainable = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
    try:
        # The number of steps does not matter for an adapter whose ranks are already allocated.
        adapted = apply(model, recorded, total_steps=2, start=False)
    except (AdaptError, RoleError, ValueError) as error:  # ValueError is PEFT's, for an option
        raise ModelError(f"{folder / ADAPTATION_FILE}: is damaged, or was edited: {error} {SAVE_AGAIN}") from error
    _fill(adapted, weights, trainable, folder)
    return adapted


def _fill(adapted: nn.Module, weights: dict[str, Tensor], trainable: set[str], folder: Path) -> None:
    """Load the weights into an adapted model, or restore the model if that fails.

    Raises:
        ModelError: if something is wrong; the text says what, or names the first trained parameter without weights.
    """
    record, inner = record_of(adapted), unwrap(adapted)
    assert record is not None
    before = {name: p.detach().clone() for name, p in inner.named_parameters() if p.requires_grad}
    try:
        # No file holds such numbers. A parameter that still has them afterwards was not in the file, in any format.
        with torch.no_grad():
            for parameter in (p for p in inner.parameters() if p.requires_grad):
                parameter.fill_(math.nan)
        METHODS[record.adaptation.method].load(adapted, record.adaptation, weights, folder)
        for name, parameter in inner.named_parameters():
            if parameter.requires_grad and not parameter.is_meta and parameter.isnan().any():
                raise other_weights(folder, f"'{name}' is missing.")
    except BaseException:
        for name, parameter in inner.named_parameters():
            if name in before and parameter.shape == before[name].shape:  # AdaLoRA's parameters are resized
                parameter.data = before[name]
        take_off(adapted, record, trainable)
        raise


def _read_adaptation(folder: Path) -> Adaptation:
    file = folder / ADAPTATION_FILE
    if not file.is_file():
        raise ModelError(
            f"{folder}: is no adapter saved by qvtune: it has no {ADAPTATION_FILE}. Give the folder of one."
        )
    recorded = read_stored(file, Adaptation, SAVE_AGAIN, ModelError)
    if recorded.method not in METHODS:
        raise ModelError(
            f"{file}: is damaged, or of a later version of qvtune: method: '{recorded.method}' is none of "
            f"{', '.join(METHODS)}. {SAVE_AGAIN}"
        )
    return recorded


def _other_layers(inner: nn.Module, attention: AttentionMap) -> str | None:
    """Say how a model's layers differ from a map's in number or heads, if the layers can be found."""
    try:
        found = locate(inner)
    except RoleError:
        return None  # the roles were declared by hand
    sizes = [{(layer.name, layer.heads, layer.kv_heads) for layer in m} for m in (found, attention)]
    if sizes[0] == sizes[1] or "declared" in {layer.layout for layer in attention}:
        return None
    return (
        f"has {len(found)} layers of {found.layers[0].heads} heads, not {len(attention)} of {attention.layers[0].heads}"
    )


def _check_head(inner: nn.Module, recorded: Adaptation, weights: dict[str, Tensor], folder: Path) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in inner.named_parameters()}
    for name, weight in weights.items():
        own = name.removeprefix(PREFIX)
        if not any(own.startswith(f"{head}.") for head in recorded.head):
            continue
        if shapes.get(own) != tuple(weight.shape):
            raise ModelError(
                f"{folder}: the adapter does not fit the model: it has '{own}' of {tuple(weight.shape)}, and the model "
                f"{shapes.get(own, 'none')}. Load the model with the same num_labels."
            )


def _summary(attention: AttentionMap) -> str:
    rows, columns = attention.layers[0]["q"].shape
    return f"{attention.model_type} with {len(attention)} attention layers of {columns} to {rows}"
